//! What a program in a container of `edge run` cannot see or touch: edge's sockets, its keys,
//! its pinned programs, and its own wire.

use tests::{
    lab::Lab,
    process::{Output, Start as _},
};

#[test]
fn edge_is_not_to_be_found_inside() {
    let lab = Lab::new(&[]);
    let state = lab.edge.folder().to_owned();
    let run = state.join("run");
    assert!(run.join("edge.sock").exists() && state.join("ca").is_dir(), "outside they are there");
    assert!(std::path::Path::new("/sys/fs/bpf/edge").join(lab.edge.instance()).is_dir());

    // The machine's own files are to be seen, so that what follows says something.
    inside(&lab, "test -s /etc/passwd && ls / | grep -q usr").ok();
    for folder in [run.to_str().unwrap(), state.to_str().unwrap(), "/sys/fs/bpf", "/run/edge"] {
        let list = format!("ls -A {folder} 2>/dev/null | wc -l");
        assert_eq!(inside(&lab, &list).ok().stdout_str(), "0", "{folder} can be looked into");
    }
    let sockets = inside(&lab, "cat /proc/net/unix").ok();
    assert!(!sockets.stdout.contains("edge"), "{sockets}");
}

#[test]
fn commands_to_the_daemon_are_refused_inside() {
    let lab = Lab::new(&[]);
    let (program, instance) = (tests::edge::program(), lab.edge.instance());
    let run = lab.edge.folder().join("run");
    let edge = format!("{} --instance {instance} --run-dir {}", program.display(), run.display());
    for words in ["tunnels", "containers --json", "ca", "attach --netns /proc/self/ns/net"] {
        let output = inside(&lab, &format!("{edge} {words}")).refused();
        assert_eq!(output.status.code(), Some(70), "{output}");
        assert!(output.stderr.starts_with("edge: daemon: none answers at"), "{output}");
    }
    // What is meant for containers does work there.
    let forward = format!("{} forward 8000 -- sh -c 'echo $EDGE_URL'", program.display());
    assert!(inside(&lab, &forward).ok().stdout.starts_with("https://"));
}

#[test]
fn a_container_changes_neither_its_wire_nor_its_view() {
    let lab = Lab::new(&[]);
    let run = lab.edge.folder().join("run");
    let run = run.display();
    for attempt in [
        "ip link set eth0 down".to_owned(),
        "ip link set eth0 address 02:00:00:00:00:01".to_owned(),
        "ip address add 100.64.0.99/32 dev eth0".to_owned(),
        "ip route del default".to_owned(),
        "nft add table inet mine".to_owned(),
        "bpftool prog show | grep .".to_owned(),
        "mount -t bpf bpf /mnt".to_owned(),
        "mount -t proc proc /mnt".to_owned(),
        format!("umount {run}"),
        "umount /sys/fs/bpf".to_owned(),
        // In a user namespace of its own it is root, but not over these.
        format!("unshare -Urm umount {run}"),
        "unshare -Urm umount /sys/fs/bpf".to_owned(),
        "unshare -Ur ip link set eth0 down".to_owned(),
        "echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned(),
    ] {
        // A `test` that fails would mean that the scene is another.
        let script = format!("test -e /proc/1 || exit 0; {attempt} && exit 0; exit 3");
        let output = inside(&lab, &script);
        assert_eq!(output.status.code(), Some(3), "{attempt}: {output}");
    }
}

/// Runs a shell script in a container, to its end.
#[track_caller]
fn inside(lab: &Lab, script: &str) -> Output {
    lab.edge.command().args(["run", "--", "sh", "-c", script]).output_of()
}
