//! The surroundings of the process as values, and `$NAME` in the config's text.
//!
//! Expansion is Go's `os.Expand`, applied to the whole text before it is read as
//! YAML: existing configs depend on its corners. There is no escape for a dollar
//! (`$$` disappears) and there are no shell operators (`${X:-y}` asks for a
//! variable of that odd name). Pure, except [`Environment::of_process`].

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;

/// What settings may depend on besides the config file.
#[derive(Clone, Default)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The process id, for `$PID`.
    pub pid: u32,
    /// What relative paths are relative to.
    pub working_dir: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

/// Without the values of the variables: many are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.variables.keys().collect();
        f.debug_struct("Environment")
            .field("variables", &names)
            .field("working_dir", &self.working_dir)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// Names under which people give credentials to Litestream, and what the AWS
/// libraries call them.
const ALIASES: [(&str, &str); 2] =
    [("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY")];

impl Environment {
    /// The surroundings of this process. Variables that are not valid UTF-8 are
    /// left out: no setting can be spelled with them.
    pub fn of_process() -> std::io::Result<Self> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = Self {
            variables: env::vars_os().filter_map(text).collect(),
            pid: std::process::id(),
            working_dir: env::current_dir()?,
            home: home(),
        };
        Ok(environment.with_aliases())
    }

    /// Copies Litestream's names of the AWS credentials to AWS's own, where those
    /// are not set. The copies are seen by the config's text and by a child.
    #[must_use]
    pub fn with_aliases(mut self) -> Self {
        for (from, to) in ALIASES {
            if self.get(to).is_none()
                && let Some(value) = self.get(from).map(str::to_owned)
            {
                self.variables.insert(to.to_owned(), value);
            }
        }
        self
    }

    /// A variable; one that is set to nothing counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The text with every `$NAME` and `${NAME}` replaced.
    pub(crate) fn expand(&self, text: &str) -> String {
        expand(text, |name| match name {
            "PID" => self.pid.to_string(),
            name => self.get(name).unwrap_or_default().to_owned(),
        })
    }
}

/// The home directory of the user, as Go finds it: by the user database, and by
/// `HOME` only if the user is not there. Paths in existing configs depend on it.
fn home() -> Option<PathBuf> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = rustix::process::getuid().as_raw();
    home_of(user, &users).or_else(env::home_dir)
}

fn home_of(user: u32, users: &str) -> Option<PathBuf> {
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut of_user = fields.filter(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(user));
    of_user.next()?.get(5).filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn expand(text: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        match name_after_dollar(after) {
            Found::Name { name, width } => {
                out.push_str(&value(name));
                rest = &after[width..];
            }
            Found::Broken { width } => rest = &after[width..],
            Found::Nothing => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

enum Found<'a> {
    /// A name, and how much text it takes.
    Name { name: &'a str, width: usize },
    /// An opening brace without sense: it disappears.
    Broken { width: usize },
    /// The dollar is an ordinary character.
    Nothing,
}

/// Go's `getShellName`.
fn name_after_dollar(after: &str) -> Found<'_> {
    let special = |c: u8| matches!(c, b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-' | b'0'..=b'9');
    let bytes = after.as_bytes();
    match bytes.first() {
        None => Found::Nothing,
        Some(b'{') => match bytes {
            [_, c, b'}', ..] if special(*c) => Found::Name { name: &after[1..2], width: 3 },
            _ => match after.find('}') {
                None => Found::Broken { width: 1 },
                Some(1) => Found::Broken { width: 2 },
                Some(end) => Found::Name { name: &after[1..end], width: end + 1 },
            },
        },
        Some(c) if special(*c) => Found::Name { name: &after[..1], width: 1 },
        Some(_) => match bytes.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count() {
            0 => Found::Nothing,
            width => Found::Name { name: &after[..width], width },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_go_does() {
        let shown = |name: &str| match name {
            "HOME" => "/root".to_owned(),
            "H" => "(H)".to_owned(),
            "ALPHA_1" => "a".to_owned(),
            "*" => "all".to_owned(),
            "#" => "NARGS".to_owned(),
            "$" => "PID".to_owned(),
            "1" => "ARG1".to_owned(),
            "X:-default" => "odd".to_owned(),
            _ => String::new(),
        };
        // The first half is the table of Go's own tests.
        let cases = [
            ("", ""),
            ("$*", "all"),
            ("$$", "PID"),
            ("${*}", "all"),
            ("$1", "ARG1"),
            ("${1}", "ARG1"),
            ("now is the time", "now is the time"),
            ("$HOME", "/root"),
            ("$home_1", ""),
            ("${HOME}", "/root"),
            ("${H}OME", "(H)OME"),
            ("A$$$#$1$H$home_1*B", "APIDNARGSARG1(H)*B"),
            ("start$+middle$^end$", "start$+middle$^end$"),
            ("mixed$|bag$$$", "mixed$|bagPID$"),
            ("$", "$"),
            ("$}", "$}"),
            ("${", ""),
            ("${}", ""),
            ("${x", "x"),
            ("${}x", "x"),
            ("${HOME", "HOME"),
            ("${X:-default}", "odd"),
            ("${unset}", ""),
            ("a$ALPHA_1-b", "aa-b"),
            ("é$Hé$é", "é(H)é$é"),
            ("${é}x", "x"),
            ("$12", "ARG12"),
            ("${12}", ""),
            ("pa$$word", "paPIDword"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, shown), expected, "{text}");
        }
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Environment { variables, pid: 42, ..Environment::default() }
    }

    #[test]
    fn the_process_id_has_a_name() {
        let env = environment(&[("PID", "wrong"), ("A", "x: y # z")]);
        assert_eq!(env.expand("$PID ${PID} $PIDX $$ $A"), "42 42   x: y # z");
    }

    #[test]
    fn the_user_database_knows_the_home() {
        let users = "root:x:0:0:root:/root:/bin/bash\n# note\nann:x:1000:1000::/home/ann:\nno:x:7:7:::\n";
        assert_eq!(home_of(0, users), Some("/root".into()));
        assert_eq!(home_of(1000, users), Some("/home/ann".into()));
        for user in [7, 8] {
            assert_eq!(home_of(user, users), None);
        }
        assert_eq!(home_of(0, ""), None);
    }

    #[test]
    fn credentials_have_two_names() {
        let env = environment(&[("LITESTREAM_ACCESS_KEY_ID", "id"), ("LITESTREAM_SECRET_ACCESS_KEY", "l")]);
        assert_eq!(env.with_aliases().get("AWS_ACCESS_KEY_ID"), Some("id"));
        let env = environment(&[("LITESTREAM_ACCESS_KEY_ID", "l"), ("AWS_ACCESS_KEY_ID", "a")]);
        assert_eq!(env.with_aliases().get("AWS_ACCESS_KEY_ID"), Some("a"));
    }
}
