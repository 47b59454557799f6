//! Clients that speak TLS, most of them written by others.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::{Command, Stdio};

use entrouter_tests::bytes::{assert_same, pattern, sha256};
use entrouter_tests::client::{self, expect_reset};
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::{Origin, accept, listen};
use entrouter_tests::pop::{PopConfig, any_port};
use entrouter_tests::scratch::Scratch;
use entrouter_tests::shells::Shell;
use entrouter_tests::tls::{Authority, Client, EC, KINDS, Pair, has_openssl};
use entrouter_tests::web::{HttpServer, curl, has_curl};
use entrouter_tests::{build, on_every, skip, wait};
use rustix::process::Signal;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

/// For `openssl s_client` and for ours.
const VERSIONS: [(&str, &str, &SupportedProtocolVersion); 2] =
    [("-tls1_2", "TLSv1.2", &TLS12), ("-tls1_3", "TLSv1.3", &TLS13)];

/// Answers the first line of a client, and ends.
fn greeter() -> Origin {
    Origin::start(|mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            stream.read_exact(&mut byte)?;
            line.extend(byte);
        }
        stream.write_all(&[b"good day, ", &line[..]].concat())?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Reads a question to its end, and only then answers: with as many bytes as it says.
fn answers_at_the_end() -> Origin {
    Origin::start(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        let length = u64::from_be_bytes(question[..8].try_into().expect("8 bytes")) as usize;
        assert_same(&question[8..], &pattern(2, question.len() - 8), "question");
        stream.write_all(&pattern(3, length))?;
        stream.shutdown(Shutdown::Write)
    })
}

/// What `openssl s_client` says, after it said hello and the server has ended.
fn s_client(line: &Line, authority: &Authority, args: &[&str]) -> String {
    let addr = line.entry.tcp().to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &addr, "-CAfile", &authority.cert(), "-ign_eof"])
        .args(["-verify_return_error", "-verify_hostname", "localhost"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is an openssl");
    child.stdin.take().expect("a pipe").write_all(b"Grace\n").expect("a reader");
    let output = child.wait_with_output().expect("an end");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let said = said.concat();
    assert!(output.status.success(), "s_client {args:?}: {}\n{said}", output.status);
    assert!(said.contains("good day, Grace"), "s_client {args:?}\n{said}");
    said
}

fn openssl_gets_its_answer_in_both_versions_and_resumes(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let (dir, origin) = (Scratch::new(), greeter());
    let authority = Authority::new(dir.path());
    for kind in KINDS {
        let [used, old, new] = ["used", "old", "new"].map(|name| authority.sign(name, kind));
        let line = Plan::direct(origin.addr()).tls(used.clone()).start(pair);
        for ((option, version, _), next) in VERSIONS.into_iter().zip([new, old]) {
            let file = |n| format!("{}/session{option}-{n}", dir.path().display());
            let said = s_client(&line, &authority, &[option, "-sess_out", &file(0)]);
            assert!(said.contains(&format!("New, {version}, ")), "{kind:?}\n{said}");
            for n in [0, 1] {
                let (from, to) = (file(n), file(n + 1));
                // TLS 1.3 gives a new session each time, for one use; 1.2 keeps its own.
                std::fs::copy(&from, &to).unwrap();
                let again = [option, "-sess_in", &from, "-sess_out", &to];
                let said = s_client(&line, &authority, &again);
                assert!(said.contains(&format!("Reused, {version}, ")), "{kind:?}\n{said}");
                if n == 0 {
                    // A new certificate ends no session.
                    next.replace(&used);
                    line.entry.signal(Signal::HUP);
                    let told = format!("certificate reloaded, SHA-256 {}", next.fingerprint());
                    line.entry.wait_log(&told);
                }
            }
        }
        line.entry.wait_idle();
    }
}

fn a_download_of_25_mb_by_curl_over_tls_is_exact(pair: [Shell; 2]) {
    const SIZE: usize = 25_000_000;
    if !has_openssl() || !has_curl() {
        skip!("no openssl or no curl");
    }
    let (dir, certs) = (Scratch::new(), Scratch::new());
    let content = pattern(1, SIZE);
    let wanted = sha256(&content);
    std::fs::write(dir.path().join("file"), content).unwrap();
    let Some(server) = HttpServer::start(dir.path()) else {
        skip!("no python3 that serves HTTP");
    };
    let authority = Authority::new(certs.path());
    let line = Plan::lossy(server.addr()).tls(authority.sign("a", EC)).start(pair);
    let url = format!("https://{}/file", line.entry.tcp());
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let got = curl(&[&version[..], &["--cacert", &authority.cert(), &url]].concat());
        assert_eq!((got.len(), sha256(&got)), (SIZE, wanted.clone()), "{version:?}");
    }
}

fn close_notify_is_a_half_close_at_the_origin(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let (dir, origin) = (Scratch::new(), answers_at_the_end());
    let authority = Authority::new(dir.path());
    let line = Plan::lossy(origin.addr()).tls(authority.sign("a", EC)).start(pair);
    for (_, version, supported) in VERSIONS {
        for (asked, answered) in [(0, 0), (100, 1_000_000), (1_000_000, 10)] {
            let mut question = (answered as u64).to_be_bytes().to_vec();
            question.extend(pattern(2, asked));
            let mut client = authority.connect(line.entry.tcp(), &[supported]).unwrap();
            client.write_all(&question).unwrap();
            client.finish().unwrap();
            let mut answer = Vec::new();
            // Fails unless the server, too, says close_notify.
            client.read_to_end(&mut answer).unwrap_or_else(|e| panic!("{version}: {e}"));
            assert_same(&answer, &pattern(3, answered), &format!("the answer in {version}"));
        }
    }
    line.entry.wait_idle();
}

/// Half-closes by OpenSSL, which Python's sockets cannot do and its objects between buffers can.
const HALF_CLOSE: &str = r#"
import socket, ssl, sys
addr, ca, version, answered = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
host, port = addr.rsplit(":", 1)
sock = socket.create_connection((host, int(port)), timeout=30)

def step(call):
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            got = sock.recv(65536)
            incoming.write(got) if got else incoming.write_eof()

step(client.do_handshake)
client.write(int(answered).to_bytes(8, "big"))
try:
    client.unwrap()
    sys.exit("it closed first")
except ssl.SSLWantReadError:
    sock.sendall(outgoing.read())
answer = b""
try:
    while True:
        answer += step(lambda: client.read(65536))
except ssl.SSLZeroReturnError:
    # The server, too, said close_notify.
    sys.stdout.buffer.write(answer)
"#;

fn a_half_close_by_python_gets_the_whole_answer(pair: [Shell; 2]) {
    const SIZE: usize = 300_000;
    if !has_openssl() || Command::new("python3").arg("--version").output().is_err() {
        skip!("no openssl or no python3");
    }
    let (dir, origin) = (Scratch::new(), answers_at_the_end());
    let authority = Authority::new(dir.path());
    let line = Plan::direct(origin.addr()).tls(authority.sign("a", EC)).start(pair);
    for version in ["TLSv1_2", "TLSv1_3"] {
        let addr = line.entry.tcp().to_string();
        let output = Command::new("python3")
            .args(["-c", HALF_CLOSE, &addr, &authority.cert(), version, &SIZE.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
        assert_same(&output.stdout, &pattern(3, SIZE), version);
    }
}

fn a_stream_without_close_notify_is_a_reset_and_never_a_clean_end(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let (dir, (listener, origin)) = (Scratch::new(), listen());
    let authority = Authority::new(dir.path());
    let line = Plan::direct(origin).tls(authority.sign("a", EC)).start(pair);
    let opened = |version| {
        let mut client = authority.connect(line.entry.tcp(), &[version]).unwrap();
        client.write_all(b"half a ques").unwrap();
        let mut served = accept(&listener);
        served.read_exact(&mut [0; 11]).unwrap();
        (client, served)
    };
    for (_, version, supported) in VERSIONS {
        let (cut, served) = opened(supported);
        cut.cut().unwrap();
        expect_reset(&served, &format!("{version}: the origin of a client that was cut off"));
        let (mut client, served) = opened(supported);
        client::reset(served);
        let end = client.read(&mut [0; 16]);
        assert!(end.as_ref().is_err_and(client::is_broken), "{version}: {end:?}");
    }
    line.entry.wait_idle();
}

/// A connection on which something went either way.
fn under_way(
    line: &Line,
    authority: &Authority,
    listener: &std::net::TcpListener,
) -> (Client, std::net::TcpStream) {
    let mut client = authority.connect(line.entry.tcp(), &[&TLS13]).unwrap();
    client.write_all(&pattern(4, 100_000)).unwrap();
    let mut served = accept(listener);
    let mut got = vec![0; 100_000];
    served.read_exact(&mut got).unwrap();
    assert_same(&got, &pattern(4, 100_000), "the first half of the question");
    served.write_all(&pattern(5, 100_000)).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_same(&got, &pattern(5, 100_000), "the first half of the answer");
    (client, served)
}

/// The rest of it, up to its clean end.
fn goes_on((mut client, mut served): (Client, std::net::TcpStream)) {
    client.write_all(&pattern(6, 1_000_000)).unwrap();
    client.finish().unwrap();
    let mut got = Vec::new();
    served.read_to_end(&mut got).unwrap();
    assert_same(&got, &pattern(6, 1_000_000), "the rest of the question");
    served.write_all(&pattern(7, 1_000_000)).unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert_same(&got, &pattern(7, 1_000_000), "the rest of the answer");
}

/// Whether a new client is shown this one.
fn shows(line: &Line, authority: &Authority, pair: &Pair) -> bool {
    let client = authority.connect(line.entry.tcp(), &[&TLS13]).unwrap();
    client.certificate() == pair.certificate()
}

fn a_new_certificate_is_shown_to_new_clients_and_spares_what_runs(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    for by_signal in [true, false] {
        let (dir, (listener, origin)) = (Scratch::new(), listen());
        let authority = Authority::new(dir.path());
        let (used, old) = (authority.sign("used", EC), authority.sign("old", EC));
        let new = authority.sign("new", KINDS[2]);
        old.replace(&used);
        let line = Plan::lossy(origin).tls(used.clone()).start(pair);
        line.entry.wait_log(&format!("certificate SHA-256 {}", old.fingerprint()));
        let running = under_way(&line, &authority, &listener);
        assert_eq!(running.0.certificate(), old.certificate());
        new.replace(&used);
        if by_signal {
            line.entry.signal(Signal::HUP);
        }
        line.entry.wait_log(&format!("certificate reloaded, SHA-256 {}", new.fingerprint()));
        assert!(shows(&line, &authority, &new));
        goes_on(running);
    }
}

fn half_a_new_pair_is_told_once_and_the_old_one_stays(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let (dir, (listener, origin)) = (Scratch::new(), listen());
    let authority = Authority::new(dir.path());
    let [used, old, new] = ["used", "old", "new"].map(|name| authority.sign(name, EC));
    old.replace(&used);
    let line = Plan::direct(origin).tls(used.clone()).start(pair);
    let running = under_way(&line, &authority, &listener);
    new.replace_cert(&used);
    line.entry.wait_log("the certificate was not reloaded, the old one stays");
    assert!(line.entry.log().contains("listen.tls_key_path: "), "the key is not named");
    assert!(shows(&line, &authority, &old));
    // Two looks at the files: what is told once is not told again.
    std::thread::sleep(std::time::Duration::from_secs(5));
    new.replace_key(&used);
    line.entry.wait_log(&format!("certificate reloaded, SHA-256 {}", new.fingerprint()));
    assert!(shows(&line, &authority, &new));
    assert_eq!(line.entry.log().matches("the old one stays").count(), 1);
    goes_on(running);
}

fn other_paths_are_taken_by_a_reload_and_need_no_restart(pair: [Shell; 2]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let (dir, (listener, origin)) = (Scratch::new(), listen());
    let authority = Authority::new(dir.path());
    let (first, second) = (authority.sign("first", EC), authority.sign("second", KINDS[0]));
    let mut line = Plan::direct(origin).tls(first.clone()).start(pair);
    // Once more, on the ports that it got: in its file these are the same from now on.
    line.entry.restart();
    line.wait_up();
    let running = under_way(&line, &authority, &listener);
    line.entry.config.tls = Some(second.clone());
    line.entry.reload();
    line.entry.wait_log(&format!("certificate reloaded, SHA-256 {}", second.fingerprint()));
    assert!(shows(&line, &authority, &second));
    assert!(!line.entry.log().contains("restart"), "{}", line.entry.log());
    // Those are looked after from now on.
    first.replace(&second);
    line.entry.wait_log(&format!("certificate reloaded, SHA-256 {}", first.fingerprint()));
    // Whether there is one at all is what the sockets were opened for.
    line.entry.config.tls = None;
    line.entry.reload();
    line.entry.wait_log("take effect only after a restart");
    assert!(shows(&line, &authority, &first));
    goes_on(running);
}

/// Exit code, what it says, and its errors.
fn command(shell: Shell, name: &str, config: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(build::binary(shell));
    command.args([name, "--config"]).arg(config).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    (output.status.code(), out, err)
}

fn a_pair_that_does_not_fit_is_refused_at_start_and_by_check([shell]: [Shell; 1]) {
    if !has_openssl() {
        skip!("no openssl");
    }
    let dir = Scratch::new();
    let authority = Authority::new(dir.path());
    let [good, other] = ["good", "other"].map(|name| authority.sign(name, EC));
    let path = dir.path().join("pop.toml");
    let write = |pair: Pair| {
        let mut config = PopConfig::new("entry", "exit", None);
        (config.tcp, config.tls) = (Some(any_port()), Some(pair));
        std::fs::write(&path, config.toml()).unwrap();
    };
    let missing = dir.path().join("missing");
    let wrong = [
        (Pair { key: other.key, ..good.clone() }, "tls_key_path", "does not belong"),
        (Pair { key: good.cert.clone(), ..good.clone() }, "tls_key_path", "no private key found"),
        (Pair { key: missing.clone(), ..good.clone() }, "tls_key_path", "No such file"),
        (Pair { cert: good.key.clone(), ..good.clone() }, "tls_cert_path", "no certificate found"),
        (Pair { cert: missing, ..good.clone() }, "tls_cert_path", "No such file"),
    ];
    for (pair, key, problem) in wrong {
        let file = if key == "tls_key_path" { &pair.key } else { &pair.cert };
        let file = file.display().to_string();
        write(pair);
        for (name, wanted) in [("run", 1), ("check", 2)] {
            let (code, out, err) = command(shell, name, &path);
            assert_eq!((code, out.as_str()), (Some(wanted), ""), "{name}: {err}");
            let told = format!("entrouter-{shell}: listen.{key}: {file}: ");
            let last = err.lines().last().unwrap_or_default();
            assert!(last.starts_with(&told) && last.contains(problem), "{name}: {err}");
            assert!(name == "run" || err.lines().count() == 1, "{err}");
        }
    }
    write(good.clone());
    let (code, out, err) = command(shell, "check", &path);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains(&format!("note: certificate SHA-256 {}", good.fingerprint())), "{out}");
    assert!(!out.contains("expire"), "{out}");
    write(authority.sign_for("expired", EC, 0));
    wait::until("it has expired", || {
        let (code, out, _) = command(shell, "check", &path);
        assert_eq!(code, Some(0), "expired is no fault");
        out.contains("note: the certificate expired less than an hour ago").then_some(())
    });
}

on_every!(
    mixed pair:
    openssl_gets_its_answer_in_both_versions_and_resumes,
    a_download_of_25_mb_by_curl_over_tls_is_exact,
    close_notify_is_a_half_close_at_the_origin,
    a_half_close_by_python_gets_the_whole_answer,
    a_stream_without_close_notify_is_a_reset_and_never_a_clean_end,
    a_new_certificate_is_shown_to_new_clients_and_spares_what_runs,
    half_a_new_pair_is_told_once_and_the_old_one_stays,
    other_paths_are_taken_by_a_reload_and_need_no_restart,
);

on_every!(shell: a_pair_that_does_not_fit_is_refused_at_start_and_by_check);
