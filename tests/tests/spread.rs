//! Gangs that one command spreads over the hosts of its region that take part.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    process::{Output, Running, Start as _, wait_for},
    region::{Machine, Plan, Region, Underlay},
};

/// Exit codes, as the README promises them.
const REFUSED: i32 = 69;
const FAILURE: i32 = 70;
/// Debian's, which has PyTorch.
const PYTHON: &str = "/usr/bin/python3";

/// Two hosts that run two members each for others, and a gateway that takes no part.
#[track_caller]
fn region() -> Region {
    Plan::over(Underlay::V4).hosts(2).host_arguments_more(&["--runs-members=2"]).up()
}

/// A gang of shells that one command starts, in a directory and with a greeting of its own.
#[track_caller]
fn start(edge: &Edge, folder: &Path, options: &[&str], script: &str) -> Running {
    let mut command = edge.command();
    command.current_dir(folder).env("GREETING", "hello");
    command.args(["run", "--name", "train", "--spread"]).args(options);
    command.args(["--", "sh", "-c", script]).running()
}

/// The same to its end, where it is refused.
#[track_caller]
fn refused(edge: &Edge, options: &[&str], says: &str) {
    let touched = edge.folder().join("begun");
    let script = format!("touch {}", touched.display());
    let words = [&["run", "--name", "train", "--spread"], options, &["--", "sh", "-c", &script]];
    let output = edge.cli(&words.concat());
    assert_refused(&output, says);
    assert!(!touched.exists(), "a program has begun");
}

#[track_caller]
fn assert_refused(output: &Output, says: &str) {
    assert_eq!(output.status.code(), Some(REFUSED), "{output}");
    assert!(output.stderr.contains(says), "{says:?} is not said: {output}");
}

/// The ranks that a machine runs.
fn ranks(machine: &Machine) -> Vec<u32> {
    let places = machine.edge.containers().into_iter().filter_map(|one| one.cluster);
    let mut ranks: Vec<_> = places.map(|place| place.rank).collect();
    ranks.sort_unstable();
    ranks
}

#[track_caller]
fn wait_for_none(region: &Region) {
    wait_for("all members to be gone everywhere", PATIENCE, || {
        region.machines().all(|machine| machine.edge.containers().is_empty()).then_some(())
    });
}

/// Waits until something is printed by a daemon, which members' lines are.
#[track_caller]
fn wait_logged(machine: &mut Machine, text: &str) {
    let name = machine.place.name.clone();
    wait_for(&format!("{text:?} in the log of {name}"), PATIENCE, || {
        machine.edge.daemon().printed().contains(text).then_some(())
    });
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("edge-test-").tempdir().expect("a temporary folder")
}

#[test]
fn one_command_starts_members_on_the_hosts_that_take_part_and_waits_for_all() {
    let mut region = region();
    let runs = |machine: &Machine| {
        let hosts = machine.edge.hosts().into_iter();
        hosts.map(|host| (host.role, host.runs_members)).collect::<Vec<_>>()
    };
    let expected = [("gateway", 0), ("host", 2), ("host", 2)];
    assert_eq!(runs(&region.hosts[0]), expected.map(|(role, most)| (role.to_owned(), most)));

    // Rank 0 ends at once, the others when they are told to.
    let folder = folder();
    let script = "echo begun $RANK of $WORLD_SIZE in $PWD, $GREETING; test $RANK = 0 && exit 0; \
                  until test -e go; do sleep 0.05; done; touch done-$RANK";
    let options = ["--cluster", "5", "--here", "1"];
    let mut gang = start(&region.gateway().edge, folder.path(), &options, script);
    let begun = |rank: u32| format!("begun {rank} of 5 in {}, hello", folder.path().display());
    gang.wait_line(&begun(0), PATIENCE);
    let placed: Vec<_> = region.machines().map(ranks).collect();
    assert_eq!((&placed[0][..], placed[1].len(), placed[2].len()), (&[0][..], 2, 2), "{placed:?}");
    assert_eq!(region.gateway().edge.containers().len(), 1);
    for (host, ranks) in region.hosts.iter_mut().zip(&placed[1..]) {
        for rank in ranks {
            wait_logged(host, &format!("[train {rank}] {}", begun(*rank)));
        }
        let [first, second] = ranks[..] else { panic!("{ranks:?}") };
        let told = format!("ranks {first}, {second} on host ");
        assert!(gang.printed().contains(&told), "{told:?}: {}", gang.printed());
    }

    // The daemon that started them may go and come.
    region.hosts[1].edge.kill9();
    region.hosts[1].edge.start();
    assert_eq!(ranks(&region.hosts[1]), placed[2]);
    wait_for("both to be claimed again", PATIENCE, || {
        let printed = region.hosts[1].edge.daemon().printed();
        (printed.matches(": claimed id=").count() == 2).then_some(())
    });
    assert!(gang.ended().is_none(), "{}", gang.printed());
    fs::write(folder.path().join("go"), "").expect("the sign to end");
    assert!(gang.wait(PATIENCE).success(), "{}", gang.printed());
    for rank in 1..5 {
        assert!(folder.path().join(format!("done-{rank}")).exists(), "{rank} was not waited for");
    }
    wait_for_none(&region);
}

#[test]
fn pytorch_sums_over_a_gang_that_is_spread() {
    let region = region();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/all_reduce.py");
    let mut command = region.hosts[0].edge.command();
    command.args(["run", "--cluster", "4", "--spread", "--", PYTHON]).arg(script).arg("20");
    let mut gang = command.running();
    // A fair share is half of them.
    wait_for("two members on each host", PATIENCE, || {
        let counts = [0, 1].map(|host| ranks(&region.hosts[host]).len());
        (counts == [2, 2]).then_some(())
    });
    assert!(gang.wait(PATIENCE * 3).success(), "{}", gang.printed());
    assert!(gang.printed().contains("rank 0 of 4 has summed"), "{}", gang.printed());
    assert!(region.gateway().edge.containers().is_empty());
}

#[test]
fn whatever_ends_a_member_or_the_command_ends_the_gang_everywhere() {
    let mut region = region();
    let folder = folder();
    let lasting = "echo begun $RANK; exec sleep 1000";
    let begin = |region: &Region, script: &str| {
        let mut gang = start(&region.hosts[0].edge, folder.path(), &["--cluster", "3"], script);
        gang.wait_line("begun 0", PATIENCE);
        gang
    };

    let mut gang = begin(&region, lasting);
    assert_eq!(ranks(&region.hosts[0]), [0, 1], "rank 0 is here");
    wait_logged(&mut region.hosts[1], "[train 2] begun 2");
    let member = region.hosts[1].edge.containers().pop().and_then(|one| one.pid).expect("rank 2");
    kill(Pid::from_raw(member.cast_signed()), Signal::SIGKILL).expect("it runs");
    assert_eq!(gang.wait(PATIENCE).code(), Some(FAILURE), "{}", gang.printed());
    assert!(gang.printed().contains("cluster \"train\": rank 2 "), "{}", gang.printed());
    wait_for_none(&region);

    // Ctrl-C, while rank 0 runs and when it waits for the others.
    let first_ends = "echo begun $RANK; test $RANK != 2 || exec sleep 1000";
    for script in [lasting, first_ends] {
        let mut gang = begin(&region, script);
        if script == first_ends {
            wait_for("both programs here to end", PATIENCE, || {
                let left = region.hosts[0].edge.containers();
                let [first] = &left[..] else { return None };
                let process = format!("/proc/{}", first.pid.expect("a process"));
                (!Path::new(&process).exists()).then_some(())
            });
        }
        gang.signal(Signal::SIGINT);
        assert_eq!(gang.wait(PATIENCE).code(), Some(130), "{}", gang.printed());
        wait_for_none(&region);
    }

    // As if its machine had died, but that its daemon says so.
    begin(&region, lasting).kill();
    wait_for_none(&region);
}

#[test]
fn a_gang_that_cannot_be_placed_whole_starts_nothing() {
    let region = region();
    let edge = &region.hosts[0].edge;
    refused(edge, &["--cluster", "5", "--here", "2"], "have room for 2 more members, and 3 are to");

    // What runs there takes room.
    let mut gang = start(edge, Path::new("/"), &["--cluster", "2"], "echo begun; exec sleep 1000");
    gang.wait_line("begun", PATIENCE);
    let other = ["--cluster", "3", "--here", "1", "--workspace", "shop"];
    refused(edge, &other, "have room for 1 more members, and 2 are to");
    gang.kill();
    wait_for_none(&region);

    // A host that cannot start its share says why, and which one it is. There is no such directory
    // there, for this one has the interfaces of whoever looks; and no such open file.
    let hosts = edge.hosts().into_iter().filter(|host| host.role == "host");
    let last = hosts.map(|host| host.id).max().expect("two hosts");
    let fails = |folder: &str, program: &str, says: &str| {
        let mut command = region.hosts[0].place.netns.command("bash");
        edge.address(&mut command);
        let words = "cd $0; exec 99</bin/true; exec edge run --cluster 2 --spread --name train \
                     -- $1";
        let output = command.args(["-c", words, folder, program]).output_of();
        let named = format!("cluster \"train\": host {last} does not start its members: ");
        assert_refused(&output, &(named + says));
    };
    region.hosts[0].place.netns.ip(&["link", "add", "own0", "type", "bridge"]);
    let folder = "/proc/sys/net/ipv4/conf/own0";
    fails(folder, "true", &format!("working directory {folder}: No such file or directory"));
    let program = "/proc/self/fd/99";
    fails("/", program, &format!("{program}: No such file or directory (os error 2); install"));
    wait_for_none(&region);
}

#[test]
fn a_machine_takes_part_only_if_it_is_told_to() {
    let region = Plan::over(Underlay::V4).hosts(1).up();
    let says = "cluster \"train\": no other machine of the region starts members for others";
    refused(&region.gateway().edge, &["--cluster", "2"], says);
    let lab = Lab::new(&[]);
    refused(&lab.edge, &["--cluster", "2"], "this machine is a region of its own");
}
