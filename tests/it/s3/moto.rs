//! A second opinion: the S3 of `moto`, a server that others wrote.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A running server, for all tests of this process.
struct Moto {
    address: String,
    /// The server ends when this end of its input does.
    _process: Child,
}

/// An endpoint and a new bucket; nothing where `MOTO_SERVER` does not name the program.
pub(crate) fn bucket() -> Option<(String, String)> {
    static MOTO: OnceLock<Option<Moto>> = OnceLock::new();
    static BUCKETS: AtomicUsize = AtomicUsize::new(0);
    let moto = MOTO.get_or_init(start).as_ref()?;
    let name = format!("bucket-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
    let created = ask(&moto.address, &format!("PUT /{name} HTTP/1.1")).unwrap();
    assert!(created.starts_with("HTTP/1.1 200"), "{created}");
    Some((format!("http://{}", moto.address), name))
}

fn start() -> Option<Moto> {
    let Some(program) = std::env::var_os("MOTO_SERVER") else {
        println!("skipped: MOTO_SERVER is not set");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // A process that ends does not end its children: the shell does, once nobody holds its input any more.
    let script = "\"$0\" -H 127.0.0.1 -p \"$1\" & server=$!; read -r _; kill $server";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program).arg(port.to_string());
    let process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let address = format!("127.0.0.1:{port}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while ask(&address, "GET / HTTP/1.1").is_err() {
        assert!(Instant::now() < deadline, "moto does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Moto { address, _process: process })
}

fn ask(address: &str, request: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "{request}\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
