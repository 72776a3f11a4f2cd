//! A container without a container engine: the files of the image in a folder of
//! their own, and programs that see that folder as their root, as the image's user.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The user of the image.
pub(crate) const NONROOT: u32 = 65532;

/// What `COPY` and `RUN` make of the sources, and a place to run it in.
pub(crate) struct Container {
    dir: TempDir,
}

pub(crate) fn source(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The instructions of the Dockerfile, each on one line.
pub(crate) fn instructions() -> Vec<String> {
    let text = source("Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|l| !l.is_empty()).collect()
}

impl Container {
    /// `None`, and says why, where a root folder cannot be entered.
    pub(crate) fn new() -> Option<Self> {
        let may = Command::new("chroot").args(["/", "true"]).stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this test needs the rights to run chroot");
            return None;
        }
        let container = Self { dir: tempfile::tempdir().unwrap() };
        container.lay_out();
        Some(container)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name.trim_start_matches('/'))
    }

    /// Runs the step of the Dockerfile that makes the files, with the program that is tested in place of the one that it
    /// would build; then gives it the libraries that a static program does not need.
    fn lay_out(&self) {
        let program = env!("CARGO_BIN_EXE_brooklet");
        let build = instructions().into_iter().find(|line| line.contains("etc/image-root")).unwrap();
        let (_, step) = build.rsplit_once("&& ").unwrap();
        let image = self.dir.path().to_str().unwrap();
        let step = step.replace("target/release/brooklet", program).replace(" /image", &format!(" {image}"));
        let done = Command::new("sh").args(["-euc", &step]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(done.status.success(), "{step}: {}", String::from_utf8_lossy(&done.stderr));
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        for word in String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
        {
            let to = self.path(word);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(word, to).unwrap();
        }
        for dir in ["etc", "tmp", "backup"] {
            std::fs::create_dir_all(self.path(dir)).unwrap();
        }
        for dir in ["data", "tmp", "backup"] {
            self.give(dir);
        }
        std::fs::set_permissions(self.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// To the user of the image.
    pub(crate) fn give(&self, name: &str) {
        std::os::unix::fs::chown(self.path(name), Some(NONROOT), Some(NONROOT)).unwrap();
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A program of the image, with the image's entry point if none is named.
    pub(crate) fn command(&self, entrypoint: Option<&str>, arguments: &[&str]) -> Command {
        let own: Vec<String> = match entrypoint {
            Some(name) => vec![name.to_owned()],
            None => instructions()
                .iter()
                .filter_map(|line| line.strip_prefix("ENTRYPOINT "))
                .map(|list| serde_json::from_str::<Vec<String>>(list).unwrap())
                .next_back()
                .unwrap(),
        };
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={NONROOT}:{NONROOT}")).arg(self.dir.path()).args(own).args(arguments);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").stdin(Stdio::null());
        command
    }

    /// Runs it to its end, which must be a good one, and gives what it printed.
    pub(crate) fn run(&self, entrypoint: Option<&str>, arguments: &[&str]) -> String {
        let done = self.command(entrypoint, arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{arguments:?}: {said}");
        said
    }

    /// The application of another container that shares the volume: same user, other programs.
    pub(crate) fn sqlite3(&self, name: &str, sql: &str) -> String {
        let user = format!("--reuid={NONROOT}");
        let mut command = Command::new("setpriv");
        command.args([&user, &user.replace("reuid", "regid"), "--clear-groups", "sqlite3"]);
        let done = command.args(["-cmd", ".timeout 10000"]).arg(self.path(name)).arg(sql).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}
