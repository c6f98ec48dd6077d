//! The guards that all other tests trust.

use std::{
    env,
    net::{TcpListener, TcpStream, UdpSocket},
    panic::catch_unwind,
    process::Command,
    time::Duration,
};

use tests::{
    leaks::Snapshot,
    metrics::Metrics,
    netns::NetNs,
    process::{Start, wait_for},
    wire::Wire,
};

#[test]
fn a_namespace_goes_with_its_last_handle() {
    let netns = NetNs::new("gone");
    let (path, other) = (netns.path(), netns.clone());
    drop(netns);
    assert!(path.exists(), "a handle is left");
    drop(other);
    assert!(!path.exists());
}

#[test]
fn a_namespace_goes_when_its_test_panics() {
    let panic = catch_unwind(|| {
        let netns = NetNs::new("panic");
        std::panic::panic_any(netns.path());
    });
    let path = panic.unwrap_err().downcast::<std::path::PathBuf>().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_namespace_takes_its_processes_along() {
    let netns = NetNs::new("pids");
    let mut forgotten = netns.command("sleep").arg("1000").spawn().unwrap();
    let listed = Command::new("ip").args(["netns", "pids", netns.name()]).output_of().ok();
    assert_eq!(listed.stdout_str(), forgotten.id().to_string(), "no wrapper around the process");
    drop(netns);
    wait_for("the process to end", Duration::from_secs(5), || forgotten.try_wait().unwrap());
}

#[test]
fn two_namespaces_reach_each_other_over_a_wire() {
    let (a, b) = (NetNs::new("a"), NetNs::new("b"));
    let wire = Wire::new(
        &a,
        "eth0",
        &["10.0.0.1/24", "fd00::1/64"],
        &b,
        "eth0",
        &["10.0.0.2/24", "fd00::2/64"],
    )
    .mtu(1400)
    .offloads_off();
    for address in ["10.0.0.2", "fd00::2"] {
        a.command("ping").args(["-c", "1", "-W", "5", address]).output_of().ok();
    }
    assert!(b.ip(&["link", "show", "eth0"]).contains("mtu 1400"));

    let listener = b.enter(|| TcpListener::bind("10.0.0.2:80").unwrap());
    a.enter(|| TcpStream::connect("10.0.0.2:80").unwrap());
    listener.accept().unwrap();
    assert!(UdpSocket::bind("10.0.0.2:80").is_err(), "the test itself stays outside");

    drop(wire);
    a.command("ip").args(["link", "show", "eth0"]).output_of().refused();
}

#[test]
fn a_program_ends_with_its_guard_and_what_it_printed_is_kept() {
    let netns = NetNs::new("run");
    let mut command = netns.command("sh");
    let mut running = command.args(["-c", "echo ready; echo oops >&2; exec sleep 1000"]).running();
    running.wait_line("ready", Duration::from_secs(5));
    wait_for("stderr", Duration::from_secs(5), || running.printed().contains("oops").then_some(()));
    let proc = format!("/proc/{}", running.pid());
    assert!(std::path::Path::new(&proc).exists());
    drop(running);
    assert!(!std::path::Path::new(&proc).exists());
}

#[test]
fn waiting_for_a_line_ends_with_the_program() {
    let panic = catch_unwind(|| {
        let mut command = Command::new("sh");
        let mut running = command.args(["-c", "echo no such device >&2; exit 3"]).running();
        running.wait_line("ready", Duration::from_secs(60));
    });
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("exit status: 3"), "{message}");
    assert!(message.contains("no such device"), "{message}");
}

#[test]
fn waiting_in_vain_says_what_for() {
    let panic = catch_unwind(|| wait_for("spring", Duration::from_millis(1), || None::<()>));
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("spring"), "{message}");
}

#[test]
fn a_leak_is_named() {
    let netns = NetNs::new("leak");
    let before = Snapshot::of(&netns, "no-such-instance");
    before.assert_unchanged();
    netns.command("nft").args(["add", "table", "inet", "forgotten"]).output_of().ok();
    netns.ip(&["route", "add", "10.9.0.0/24", "dev", "lo"]);
    let panic = catch_unwind(|| before.assert_unchanged());
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("table inet forgotten"), "{message}");
    assert!(message.contains("10.9.0.0/24"), "{message}");
}

#[test]
fn metrics_are_read_and_compared() {
    let text = "# HELP a b\na{verdict=\"drop\"} 1\na{verdict=\"pass\"} 2\nother 0.5\n";
    let before = Metrics::parse(text);
    assert_eq!(before.value("other"), 0.5);
    assert_eq!(before.sum("a", &[]), 3.0);
    assert_eq!(before.sum("a", &["verdict=\"pass\""]), 2.0);
    let after = Metrics::parse(&text.replace(" 2", " 5"));
    assert_eq!(
        after.since(&before).into_iter().collect::<Vec<_>>(),
        [("a{verdict=\"pass\"}".to_owned(), 3.0)]
    );
}

/// Runs one of the tests above in a process that may never get CAP_SYS_ADMIN.
#[test]
fn a_missing_privilege_fails_by_name() {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    command.arg(env::current_exe().unwrap());
    command.args(["--exact", "a_namespace_goes_with_its_last_handle", "--nocapture"]);
    let output = command.output_of().refused();
    assert!(output.stderr.contains("this test needs CAP_SYS_ADMIN"), "{output}");
}
