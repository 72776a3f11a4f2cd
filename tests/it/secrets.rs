//! No secret comes out again: not in logs at the most talkative level, not in
//! errors, tables or JSON, whether the storage lets us in or not.

use std::fs;

use brooklet::config::{Config, Environment};

use crate::s3_commands::{Ended, Rig};

/// Every planted secret has this in it, so that one search finds all.
const MARK: &str = "hunter";

/// 32 bytes.
const CUSTOMER_KEY: &str = "aHVudGVyaHVudGVyaHVudGVyaHVudGVyaHVudGVyLi4=";

#[track_caller]
fn silent(ended: &Ended, what: &str) {
    for text in [&ended.stdout, &ended.stderr] {
        // The secret that the server knows is one too.
        for secret in [MARK, CUSTOMER_KEY, "test-secret-key"] {
            let at = text.find(secret);
            let shown = at.map(|at| text[at.saturating_sub(300)..(at + secret.len()).min(text.len())].to_owned());
            assert_eq!(shown, None, "{what} shows a secret");
        }
    }
}

/// All commands that look at a database, as talkative as they get.
fn commands<'a>(config: &'a str, database: &'a str) -> Vec<Vec<&'a str>> {
    let mut commands = vec![
        vec!["replicate", "-once", "-log-level", "trace", "-config", config],
        vec!["databases", "-config", config],
        vec!["databases", "-json", "-config", config],
        vec!["doctor", "-config", config],
        vec!["doctor", "-json", "-config", config],
    ];
    for words in [
        &["restore", "-v", "-o", "restored.db"][..],
        &["restore", "-dry-run", "-json", "-o", "restored.db"],
        &["ltx"],
        &["ltx", "-json"],
        &["generations"],
        &["info"],
    ] {
        commands.push([words, &["-config", config, database]].concat());
    }
    commands
}

#[test]
fn secrets_of_the_config_and_the_environment_do_not_come_out() {
    for (accepted, secret) in [(true, "test-secret-key"), (false, "hunter-secret")] {
        let mut rig = Rig::new();
        rig.set("AWS_SECRET_ACCESS_KEY", "hunter-aws");
        rig.set("AWS_SESSION_TOKEN", "hunter-token");
        rig.set("LITESTREAM_SECRET_ACCESS_KEY", "hunter-litestream");
        rig.set("LOG_LEVEL", "trace");
        rig.set("RUST_BACKTRACE", "1");
        let config = format!(
            "logging: {{level: trace, source: true}}\nshutdown-sync-timeout: 2s\n\
             dbs:\n  - path: app.db\n    replica:\n      type: s3\n      bucket: test-bucket\n      path: p\n      \
             endpoint: {}\n      access-key-id: test-access-key\n      secret-access-key: {secret}\n      \
             session-token: hunter-own-token\n      sse-customer-key: {CUSTOMER_KEY}\n      \
             headers: {{X-Proxy: hunter-header}}\n",
            rig.server.endpoint
        );
        fs::write(rig.path("l.yml"), config).unwrap();
        for words in commands("l.yml", "app.db") {
            let ended = rig.run(&words);
            silent(&ended, &words.join(" "));
            let looks_only = words[0] == "databases" || words[0] == "generations";
            if !looks_only {
                assert_eq!(ended.code == Some(0), accepted, "{words:?}\n{}\n{}", ended.stdout, ended.stderr);
            }
        }
    }
}

/// What a panic prints of settings is what `Debug` makes of them.
#[test]
fn secrets_do_not_come_out_of_a_panic() {
    let text = format!(
        "addr: ':0'\naddr-token: hunter-page\nage: {{identities: [AGE-SECRET-KEY-hunter]}}\n\
         webhook: {{url: 'http://u:hunter-hook@localhost/', headers: {{Authorization: hunter-webhook}}}}\n\
         dbs:\n  - path: app.db\n    replicas:\n      - type: s3\n        bucket: b\n        \
         access-key-id: id\n        secret-access-key: hunter-key\n        session-token: hunter-own-token\n        \
         sse-customer-key: {CUSTOMER_KEY}\n        headers: {{X-Proxy: hunter-header}}\n      \
         - url: 's3://id:hunter-url@b/p'\n"
    );
    let (send, said) = std::sync::mpsc::channel();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| drop(send.send(panic.to_string()))));
    let ended = std::thread::spawn(move || {
        let config = Config::parse(&text, &Environment::default());
        let replicas = config.iter().flat_map(|config| config.databases()).flatten().flat_map(|d| d.replicas.clone());
        panic!("{:#?} {config:#?} {:#?}", replicas.collect::<Vec<_>>(), config.as_ref().map(|config| &config.global));
    });
    ended.join().unwrap_err();
    std::panic::set_hook(hook);
    let said: String = said.iter().collect();
    assert!(said.contains("app.db"), "the settings are shown: {said}");
    silent(&Ended { code: None, stdout: said, stderr: String::new() }, "a panic");
}

#[test]
fn secrets_of_the_environment_alone_do_not_come_out() {
    for accepted in [true, false] {
        let mut rig = Rig::new();
        rig.set("AWS_SESSION_TOKEN", "hunter-token");
        rig.set("LOG_LEVEL", "trace");
        if !accepted {
            rig.set("LITESTREAM_SECRET_ACCESS_KEY", "hunter-litestream");
        }
        let url = rig
            .url("s3://u:hunter-url@test-bucket/p?sse-customer-key=")
            .replace("sse-customer-key=", &format!("sse-customer-key={}", CUSTOMER_KEY.replace('=', "%3D")));
        for words in [
            &["restore", "-v", "-o", "restored.db", &url][..],
            &["restore", "-dry-run", "-o", "other.db", &url],
            &["restore", &url],
            &["ltx", "-replica", "none", &url],
            &["ltx", &url],
            &["doctor", "-json", &url],
            &["replicate", "-once", "-log-level", "trace", "app.db", &url],
        ] {
            if words[0] == "replicate" && !accepted {
                // Would try for half a minute before it stops; the config above shortens that.
                continue;
            }
            let ended = rig.run(words);
            silent(&ended, &words.join(" "));
        }
    }
}

#[test]
fn secrets_of_other_kinds_of_storage_do_not_come_out_either() {
    let rig = Rig::new();
    let replicas = [
        "type: sftp, host: h, user: u, path: p, password: hunter1",
        "url: 'sftp://u:hunter1@h/p'",
        "url: 'sftp://u:hunter1@h:port/p'",
        "url: 'sftp//u:hunter1@h/p'",
        "path: 'sftp://u:hunter1@h/p'",
        "url: 'foo://u:hunter1@h/p'",
        "type: webdav, webdav-url: 'https://h', webdav-username: u, webdav-password: hunter1",
        "url: 'webdavs://u:hunter1@h/%zz'",
        "type: nats, bucket: b, token: hunter1, jwt: hunter2, seed: hunter3, nkey: hunter4, creds: hunter5",
        "url: 'nats://u:hunter1@h/b'",
        "type: abs, bucket: b, account-name: a, account-key: hunter1, sas-token: hunter2",
        "type: oss, bucket: b, access-key-id: a, secret-access-key: hunter1",
        // Mistakes.
        "type: s3, bucket: b, secret-access-key: hunter1",
        "type: s3, bucket: b, secret-access-key: [hunter1]",
        "type: s3, bucket: b, secret-access-key: {a: hunter1}",
        "type: s3, bucket: b, secret-access-key:hunter1",
        "type: s3, bucket: b, secret_access_key: hunter1",
        "type: s3, bucket: b, secret-access-key: !hunter1 a",
        "type: s3, bucket: b, secret-access-key: *hunter1",
        "type: s3, bucket: b, secret-access-key: \"hunter1",
        "type: s3, bucket: b, secret-access-key: @hunter1",
        "type: s3, bucket: b, sse-customer-key: hunter1",
        "type: s3, bucket: b, sse-customer-algorithm: AES256, sse-customer-key: hunter1",
        "type: s3, bucket: b, headers: hunter1-and-more",
        "type: s3, bucket: b, headers: {X-Key: \"hunter1\\n\"}",
        "type: s3, bucket: b, endpoint: 'https://u:hunter1@h'",
        "path: p, age: {identities: [hunter1]}",
    ];
    for replica in replicas {
        fs::write(rig.path("l.yml"), format!("dbs: [{{path: app.db, replica: {{{replica}}}}}]\n")).unwrap();
        for words in [
            &["databases", "-config", "l.yml"][..],
            &["replicate", "-once", "-log-level", "trace", "-config", "l.yml"],
            &["restore", "-config", "l.yml", "-o", "x.db", "app.db"],
        ] {
            // Some of these are in order, and AWS is not to be asked.
            if words[0] != "databases" && replica.starts_with("type: s3") {
                continue;
            }
            silent(&rig.run(words), replica);
        }
    }
}
