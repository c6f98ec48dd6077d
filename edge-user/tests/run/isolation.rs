//! What a program in a container sees, and what it may do.

use std::process::Command;

use crate::daemon::{Daemon, Ran};

/// Docker's default set, as /proc/PID/status writes it.
const DOCKER_DEFAULT: &str = "00000000a80425fb";

#[test]
fn it_sees_its_own_processes_only() {
    let ran = Daemon::start()
        .inside("echo /proc/[0-9]* | wc -w; readlink /proc/self; tr '\\0' ' ' </proc/1/cmdline");
    let lines: Vec<_> = ran.out.lines().collect();
    // init, sh, and what counts or waits for it.
    assert!(lines[0].parse::<u32>().unwrap() <= 4, "{ran:?}");
    assert!(lines[1].parse::<u32>().unwrap() <= 10, "{ran:?}");
    assert!(lines[2].contains("__init"), "{ran:?}");
}

#[test]
fn it_has_the_default_capabilities_and_no_other() {
    let daemon = Daemon::start();
    for process in ["self", "1"] {
        let ran = daemon.inside(&format!("grep Cap /proc/{process}/status"));
        let set = |name: &str| {
            let line = ran.out.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {ran:?}")).trim()
        };
        assert_eq!(set("CapEff:"), DOCKER_DEFAULT);
        assert_eq!(set("CapPrm:"), DOCKER_DEFAULT);
        assert_eq!(set("CapBnd:"), DOCKER_DEFAULT);
        assert_eq!(set("CapInh:"), "0000000000000000");
        assert_eq!(set("CapAmb:"), "0000000000000000");
    }
}

#[test]
fn it_cannot_undo_what_was_done() {
    let daemon = Daemon::start();
    let dir = daemon.run_dir().display().to_string();
    for forbidden in [
        format!("umount -l {dir}"),
        "umount -l /sys".to_owned(),
        "mount -t bpf bpf /mnt".to_owned(),
        "mount -o remount,rw /proc/sys".to_owned(),
        "hostname other".to_owned(),
        "ip link set lo down".to_owned(),
        "nsenter --net=/proc/1/ns/net true".to_owned(),
        // A user namespace makes its root mighty over what is its own only.
        format!("unshare --user --map-root-user --mount umount -l {dir}"),
    ] {
        let ran = daemon.inside(&forbidden);
        assert!(!matches!(ran.code, Some(0 | 127)), "{forbidden}: {ran:?}");
    }
}

#[test]
fn it_finds_neither_edges_sockets_nor_bpffs() {
    let daemon = Daemon::start();
    let dir = daemon.run_dir().display();
    let ran =
        daemon.inside(&format!("ls -A {dir} /run/edge /var/lib/edge 2>/dev/null | grep -v :"));
    assert_eq!(ran.out, "", "{ran:?}");

    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().display();
    let outside = format!(
        "mount -t bpf bpf {elsewhere}; mkdir {elsewhere}/pinned; \
         mount -t bpf bpf /sys/fs/bpf; mkdir /sys/fs/bpf/pinned; exec \"$@\""
    );
    let ran =
        daemon.inside_of(&outside, &format!("ls -A {elsewhere} /sys/fs/bpf | grep -v :; mount"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains("pinned"), "{ran:?}");
}

#[test]
fn a_working_directory_is_no_way_around() {
    let daemon = Daemon::start();
    let outside = format!("cd {}; exec \"$@\"", daemon.run_dir().display());
    let ran = daemon.inside_of(&outside, "pwd; ls -A .");
    assert_eq!(ran.out, daemon.run_dir().display().to_string(), "{ran:?}");
}

#[test]
fn it_resolves_names_through_edge() {
    let ran = Daemon::start()
        .inside("cat /etc/resolv.conf; grep ^hosts: /etc/nsswitch.conf; cat /etc/hosts; hostname");
    let expected = "nameserver 169.254.20.10\nhosts: files dns\n127.0.0.1 localhost\n\
                    ::1 localhost ip6-localhost ip6-loopback\n100.64.0.2 box\nfdaa::2 box\nbox";
    assert_eq!(ran.out, expected, "{ran:?}");
}

#[test]
fn a_resolv_conf_that_is_a_link_is_covered_too() {
    for make_target in ["", "mkdir $dir/resolver; echo nameserver 9.9.9.9 >$dir/resolver/stub;"] {
        let daemon = Daemon::start();
        let dir = tempfile::tempdir().unwrap();
        let outside = format!(
            "dir={}; cp -a /etc $dir/etc; {make_target} \
             ln -sf ../resolver/stub $dir/etc/resolv.conf; \
             mount --bind $dir/etc /etc; mount --bind $dir/etc $dir/etc; exec \"$@\"",
            dir.path().display()
        );
        // /etc is another directory there, so that the link leads out of / unless it is absolute.
        let outside = outside.replace("../resolver", "$dir/resolver");
        let ran = daemon.inside_of(&outside, "cat /etc/resolv.conf");
        assert_eq!(ran.out, "nameserver 169.254.20.10", "{ran:?}");
        let untouched = std::fs::read_to_string(dir.path().join("resolver/stub")).unwrap();
        assert_eq!(untouched.contains("9.9.9.9"), !make_target.is_empty());
    }
}

#[test]
fn what_the_machine_replaces_is_covered_again() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    // Its own /etc, in which it then does what resolver daemons do when a link changes, and what
    // a service manager does to a service's run directory.
    let outside = format!(
        "dir={}; run={}; cp -a /etc $dir/etc; mount --bind $dir/etc /etc; \"$@\" & \
         while ! test -e $dir/started; do sleep 0.05; done; \
         for n in 1 2 3; do echo nameserver 9.9.9.$n >/etc/new; mv /etc/new /etc/resolv.conf; done; \
         rm -r $run; mkdir $run; touch $run/edge.sock; sleep 0.5; touch $dir/replaced; wait",
        dir.path().display(),
        daemon.run_dir().display()
    );
    let script = format!(
        "touch {0}/started; while ! test -e {0}/replaced; do sleep 0.05; done; \
         cat /etc/resolv.conf; ls -A {1}",
        dir.path().display(),
        daemon.run_dir().display()
    );
    let ran = daemon.inside_of(&outside, &script);
    assert_eq!(ran.out, "nameserver 169.254.20.10", "{ran:?}");
}

#[test]
fn the_kernels_switches_are_read_only() {
    let ran = Daemon::start().inside(
        "echo 1 >/proc/sys/net/ipv4/ip_forward && echo wrote; \
         mkdir /sys/fs/cgroup/x && echo made; touch /sys/x && echo touched; \
         cat /proc/kcore /proc/sysrq-trigger /proc/timer_list 2>/dev/null | wc -c",
    );
    assert_eq!(ran.out, "0", "{ran:?}");
    assert!(ran.err.contains("ead-only"), "{ran:?}");
}

#[test]
fn its_network_is_empty_and_its_own() {
    let ran = Daemon::start().inside("ls /sys/class/net; mount | grep -c 'on /dev/shm type tmpfs'");
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[0], "lo", "{ran:?}");
    assert!(lines.len() == 2 || lines[1] == "sit0", "{ran:?}");
}

#[test]
fn nothing_is_left_in_the_machines_own_mounts() {
    let outside = "mount --make-rshared /; before=$(cat /proc/self/mountinfo); \"$@\"; \
                   test \"$before\" = \"$(cat /proc/self/mountinfo)\" && echo same";
    let ran = Daemon::start().inside_of(outside, "true");
    assert!(ran.out.ends_with("same"), "{ran:?}");
}

#[test]
fn the_environment_is_the_persons_and_the_daemons() {
    let daemon = Daemon::start();
    let mut command = daemon.edge(&["run", "--", "sh", "-c", "echo $MINE $MODAL_TASK_ID"]);
    let ran = Ran::from(command.env("MINE", "yes").output().unwrap());
    assert_eq!(ran.out, "yes ta-1", "{ran:?}");
}

#[test]
fn no_descriptor_of_edge_reaches_it() {
    let list = "ls /proc/self/fd";
    let outside = Ran::from(Command::new("sh").args(["-c", list]).output().unwrap());
    assert_eq!(Daemon::start().inside(list).out, outside.out);
}
