//! Clusters: containers that `edge run --cluster` starts together, that know each other in one
//! order, and that end together.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use tests::{
    edge::{self, Container, Edge},
    lab::{Lab, PATIENCE},
    leaks::Snapshot,
    process::{Output, Running, Start as _, wait_for},
    region::{Plan, Region, Underlay},
};

/// Exit codes, as the README promises them.
const REFUSED: i32 = 69;
const FAILURE: i32 = 70;
const NOT_FOUND: i32 = 127;
/// Importing a Python package takes seconds where processors are shared.
const SLOWLY: Duration = Duration::from_secs(180);
/// Debian's, which has PyTorch.
const PYTHON: &str = "/usr/bin/python3";

/// Runs a gang of shells to its end.
#[track_caller]
fn gang(edge: &Edge, options: &[&str], script: &str) -> Output {
    edge.cli(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

/// What each rank printed: rank 0 on stdout, the others on stderr with their rank.
fn by_rank(output: &Output) -> BTreeMap<usize, Vec<String>> {
    let mut said = BTreeMap::<usize, Vec<String>>::new();
    said.insert(0, output.stdout.lines().map(str::to_owned).collect());
    for line in output.stderr.lines() {
        let prefixed = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        if let Some((rank, text)) = prefixed {
            said.entry(rank.parse().expect("a rank")).or_default().push(text.to_owned());
        }
    }
    said
}

/// Waits until nothing of a gang is left.
#[track_caller]
fn wait_for_none(edge: &Edge) {
    wait_for("all members to be gone", PATIENCE, || edge.containers().is_empty().then_some(()));
}

#[test]
fn a_gang_finds_rank_size_and_addresses_in_its_environment() {
    let lab = Lab::new(&[]);
    let script = "for name in RANK WORLD_SIZE MASTER_ADDR MASTER_PORT NCCL_HOSTID \
                  NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME EDGE_CLUSTER EDGE_CLUSTER_IPS \
                  EDGE_CLUSTER_IPV4_IPS; do eval echo $name=\\$$name; done; \
                  ip -o address show dev eth0; hostname";
    let said = by_rank(&gang(&lab.edge, &["--cluster", "4", "--name", "train"], script).ok());
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let value = |rank: usize, name: &str| {
        let mut values = said[&rank].iter().filter_map(|line| line.split_once('='));
        let found = values.find(|(key, _)| *key == name);
        found.unwrap_or_else(|| panic!("rank {rank} has no {name}: {said:?}")).1.to_owned()
    };
    let addresses: Vec<_> = value(0, "EDGE_CLUSTER_IPS").split(',').map(str::to_owned).collect();
    let ipv4: Vec<_> = value(0, "EDGE_CLUSTER_IPV4_IPS").split(',').map(str::to_owned).collect();
    assert_eq!((addresses.len(), ipv4.len()), (4, 4));
    for rank in 0..4 {
        assert_eq!(value(rank, "RANK"), rank.to_string());
        assert_eq!(value(rank, "WORLD_SIZE"), "4");
        assert_eq!(value(rank, "MASTER_ADDR"), addresses[0]);
        assert_eq!(value(rank, "MASTER_PORT"), "29500");
        assert_eq!(value(rank, "NCCL_SOCKET_IFNAME"), "eth0");
        assert_eq!(value(rank, "GLOO_SOCKET_IFNAME"), "eth0");
        assert_eq!(value(rank, "EDGE_CLUSTER"), "train");
        assert_eq!(value(rank, "EDGE_CLUSTER_IPS"), addresses.join(","));
        assert_eq!(value(rank, "EDGE_CLUSTER_IPV4_IPS"), ipv4.join(","));
        assert_eq!(value(rank, "NCCL_HOSTID"), format!("train-{rank}{}", addresses[rank]));
        // What it is told of itself is what it has.
        let shown = said[&rank].join("\n");
        for own in [&addresses[rank], &ipv4[rank]] {
            assert!(shown.contains(&format!(" {own}/")), "rank {rank} has not {own}: {shown}");
        }
        assert!(shown.ends_with(&format!("train-{rank}")), "the host name: {shown}");
    }
    wait_for_none(&lab.edge);
}

#[test]
fn the_exit_code_is_rank_0s_or_of_whoever_failed() {
    let lab = Lab::new(&[]);
    let run = |script| gang(&lab.edge, &["--cluster", "3"], script);
    let output = run("echo out; echo err >&2; test $RANK = 0 || exit 0");
    let said = by_rank(&output.ok());
    assert_eq!(said[&0], ["out"], "stdout is rank 0's alone");
    for rank in [1, 2] {
        assert_eq!(said[&rank].iter().collect::<BTreeSet<_>>().len(), 2);
    }

    let output = run("test $RANK = 0 && exit 5; exec sleep 1000");
    assert_eq!(output.status.code(), Some(5), "{output}");
    let output = run("test $RANK = 2 && exit 6; exec sleep 1000");
    assert_eq!(output.status.code(), Some(6), "{output}");
    let named = "edge: rank 2 ended with exit code 6; its cluster has ended with it";
    assert!(output.stderr.contains(named), "{output}");
    // Who fails when others have ended well is not overlooked.
    let output = run("test $RANK = 1 || exit 0; sleep 0.5; exit 7");
    assert_eq!(output.status.code(), Some(7), "{output}");
    let output = run("test $RANK = 1 && kill -KILL $$; exec sleep 1000");
    assert_eq!(output.status.code(), Some(137), "{output}");
    wait_for_none(&lab.edge);
}

#[test]
fn a_gang_that_cannot_begin_whole_starts_nothing() {
    let lab = Lab::new(&[]);
    let touched = lab.edge.folder().join("begun");
    let script = format!("touch {}", touched.display());
    let before = Snapshot::of(&lab.machine, lab.edge.instance());

    // Nobody else comes.
    let options = ["--cluster", "3", "--here", "2", "--name", "train", "--gather", "1s"];
    let output = gang(&lab.edge, &options, &script);
    assert_eq!(output.status.code(), Some(REFUSED), "{output}");
    let says = "cluster \"train\": it has waited for 1s, in which 2 of 3 members came; start";
    assert!(output.stderr.contains(says), "{output}");

    // One of the containers cannot be had.
    let mut other = lab.edge.run(&["--name", "team-1", "--", "sleep", "1000"]);
    wait_for("the other container", PATIENCE, || lab.edge.containers().pop());
    let output = gang(&lab.edge, &["--cluster", "3", "--name", "team"], &script);
    assert_eq!(output.status.code(), Some(REFUSED), "{output}");
    assert!(output.stderr.contains("\"team-1\""), "{output}");
    other.kill();

    // The program cannot be had.
    let output = lab.edge.cli(&["run", "--cluster", "3", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(NOT_FOUND), "{output}");

    // Nonsense.
    let output = gang(&lab.edge, &["--cluster", "2", "--here", "3", "--name", "train"], &script);
    assert_eq!(output.status.code(), Some(64), "{output}");
    assert!(output.stderr.contains("the cluster has 2 members in all"), "{output}");

    wait_for_none(&lab.edge);
    assert!(!touched.exists(), "a program has begun");
    before.assert_unchanged();
}

/// Starts a part of a gang that prints when it has begun.
fn part(edge: &Edge, options: &[&str]) -> Running {
    let script = "echo begun $RANK of $WORLD_SIZE; exec sleep 1000";
    edge.run(&[options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn members_come_by_name_and_size_and_no_others() {
    let lab = Lab::new(&[]);
    let train = ["--cluster", "3", "--name", "train", "--here"];
    let mut first = part(&lab.edge, &[&train[..], &["2"]].concat());
    wait_for("two containers", PATIENCE, || (lab.edge.containers().len() == 2).then_some(()));
    let refused = |options: &[&str], says: &str| {
        let output = gang(&lab.edge, options, "true");
        assert_eq!(output.status.code(), Some(REFUSED), "{output}");
        assert!(output.stderr.contains(says), "{says:?} is not said: {output}");
    };
    // Whether they are there yet shows by what the others are told.
    wait_for("the first members", PATIENCE, || {
        let options = ["--cluster", "4", "--name", "train", "--here", "1", "--gather", "1ms"];
        let output = gang(&lab.edge, &options, "true");
        output.stderr.contains("gathers 3 members, not 4").then_some(())
    });
    refused(&[&train[..], &["2"]].concat(), "has room for 1 more of its 3 members, not for 2");
    assert!(first.stdout().is_empty(), "it begins when it is whole: {}", first.printed());
    let mut last = part(&lab.edge, &[&train[..], &["1"]].concat());
    first.wait_line("begun 0 of 3", PATIENCE);
    last.wait_line("begun 2 of 3", PATIENCE);
    refused(&[&train[..], &["1"]].concat(), "is whole already");
    // In another workspace it is another cluster.
    let elsewhere = ["--cluster", "1", "--name", "train", "--workspace", "shop"];
    gang(&lab.edge, &elsewhere, "true").ok();

    last.kill();
    let status = first.wait(PATIENCE);
    assert_eq!(status.code(), Some(FAILURE), "{}", first.printed());
    assert!(first.printed().contains("cluster \"train\": rank 2"), "{}", first.printed());
    wait_for_none(&lab.edge);
    gang(&lab.edge, &["--cluster", "2", "--name", "train"], "true").ok();
}

#[test]
fn a_gang_outlives_a_restart_and_ends_together_after_it() {
    let mut lab = Lab::new(&[]);
    let train = ["--cluster", "2", "--name", "train", "--here", "1"];
    let mut parts = [part(&lab.edge, &train), part(&lab.edge, &train)];
    for one in &mut parts {
        one.wait_line("begun", PATIENCE);
    }
    lab.edge.kill9();
    lab.edge.start();
    wait_for("both owners to be back", PATIENCE, || {
        parts.iter().all(|one| one.printed().contains("it is back")).then_some(())
    });
    let old = lab.edge.replace(&[]);
    drop(old);
    wait_for("both owners at the successor", PATIENCE, || {
        let back = |one: &Running| one.printed().matches("it is back").count() == 2;
        parts.iter().all(back).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(parts.iter_mut().all(|one| one.ended().is_none()), "{}", parts[0].printed());
    parts[1].signal(Signal::SIGKILL);
    assert_eq!(parts[0].wait(PATIENCE).code(), Some(FAILURE), "{}", parts[0].printed());
}

/// A file of this package.
fn file(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Starts a gang, or a part of one, with Modal's package for whichever python3 comes first in
/// `bin`.
#[track_caller]
fn modal_gang(edge: &Edge, bin: &Path, options: &[&str], script: &[&str]) -> Running {
    let mut versions = fs::read_dir(edge::venv().join("lib")).expect("the Python environment");
    let version = versions.next().and_then(Result::ok).expect("a version of Python").path();
    let packages = version.join("site-packages");
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap_or_default());
    let mut command = edge.command();
    command.env("PATH", path).env("PYTHONPATH", packages);
    command.arg("run").args(options).arg("--modal").arg("--").args(script).running()
}

#[test]
fn modals_package_answers_of_its_cluster() {
    let lab = Lab::new(&[]);
    let (bin, script) = (edge::venv().join("bin"), file("modal/cluster.py"));
    let options = ["--cluster", "3", "--name", "train"];
    let mut gang = modal_gang(&lab.edge, &bin, &options, &[&script, "one", "--two"]);
    assert!(gang.wait(SLOWLY).success(), "{}", gang.printed());
    let lines = gang.printed();
    let of = |rank: usize| {
        let lines = lines.lines().filter_map(|line| match rank {
            0 => Some(line),
            _ => line.strip_prefix(&format!("[{rank}] ")),
        });
        lines.filter_map(|line| line.split_once('\t')).collect::<BTreeMap<_, _>>()
    };
    let first = of(0);
    assert!(first["id"].starts_with("cu-"), "{first:?}");
    assert_eq!(
        (first["arguments"], first["name"]),
        ("one,--two", "__main__"),
        "as python3 runs it"
    );
    let count = |label: &str, prefix: &str| {
        first[label].split(',').filter(|one| one.starts_with(prefix)).count()
    };
    assert_eq!((count("ids", "ta-"), count("ipv6", "fdaa:"), count("ipv4", "100.64.")), (3, 3, 3));
    assert!(first["another"].contains("of no cluster with this id"), "{first:?}");
    for rank in 0..3 {
        let said = of(rank);
        for label in ["id", "ids", "ipv6", "ipv4"] {
            assert_eq!(said[label], first[label], "rank {rank}: {label}");
        }
        assert_eq!(
            (said["rank"], said["own rank by id"]),
            (&*rank.to_string(), &*rank.to_string())
        );
    }
    // Outside a cluster the package is told so.
    let launcher = "import modal, os; from modal._cluster import initialize_clustered_function; \
                    initialize_clustered_function(modal.Client.from_env(), os.environ['MODAL_TASK_ID'])";
    let python = bin.join("python").display().to_string();
    let alone = lab.edge.cli(&["run", "--i6pn", "--", &python, "-c", launcher]).refused();
    assert!(alone.stderr.contains("this container is of no cluster"), "{alone}");
}

/// Two hosts, and on each of them two members of a cluster of four.
#[track_caller]
fn on_two_hosts(start: impl Fn(&Edge, &[&str]) -> Running) -> (Region, [Running; 2]) {
    let region = Plan::over(Underlay::V4).hosts(2).up();
    let options = ["--cluster", "4", "--name", "train", "--here", "2"];
    let parts = [0, 1].map(|host| start(&region.hosts[host].edge, &options));
    (region, parts)
}

/// All ranks say so, wherever they are, and all parts end well.
#[track_caller]
fn all_sum(parts: &mut [Running]) {
    for part in &mut *parts {
        assert!(part.wait(SLOWLY).success(), "{}", part.printed());
    }
    let printed: String = parts.iter().map(|part| part.printed() + "\n").collect();
    for rank in 0..4 {
        let says = format!("rank {rank} of 4 has summed");
        assert_eq!(printed.matches(&says).count(), 1, "{says}: {printed}");
    }
}

#[test]
fn pytorch_sums_over_four_containers_on_two_hosts() {
    let script = file("programs/all_reduce.py");
    let (region, mut parts) =
        on_two_hosts(|edge, options| edge.run(&[options, &["--", PYTHON, &script, "20"]].concat()));
    all_sum(&mut parts);
    // What gloo found on the interface was IPv4.
    let metrics = region.hosts[0].edge.metrics();
    assert!(metrics.packets("tc_container", "i6pn") > 50.0, "the members sent nothing");
}

#[test]
fn pytorch_sums_with_the_addresses_that_modal_gives() {
    let script = file("modal/all_reduce.py");
    for family in ["ipv6", "ipv4"] {
        let (_region, mut parts) = on_two_hosts(|edge, options| {
            modal_gang(edge, Path::new("/usr/bin"), options, &[&script, family])
        });
        all_sum(&mut parts);
    }
}

#[test]
fn members_on_two_hosts_know_each_other_by_rank_and_reach_each_other_by_ipv4() {
    // Each waits for the last rank by name, then reaches it by its IPv4 address.
    let script = "last=$(echo $EDGE_CLUSTER_IPV4_IPS | cut -d, -f4); \
                  echo begun $RANK $EDGE_CLUSTER_IPV4_IPS; \
                  test $RANK = 3 && exec sleep 1000; \
                  until getent ahostsv6 3.train >/dev/null; do sleep 0.05; done; \
                  echo named $RANK $(getent ahostsv6 3.train | cut -d' ' -f1 | head -1); \
                  until ping -c 1 -W 1 $last >/dev/null; do sleep 0.05; done; \
                  echo reached $RANK; exec sleep 1000";
    let (region, mut parts) =
        on_two_hosts(|edge, options| edge.run(&[options, &["--", "sh", "-c", script]].concat()));
    let all_reach = |parts: &[Running]| {
        let printed: String = parts.iter().map(|part| part.printed() + "\n").collect();
        let reached = |rank: &usize| printed.contains(&format!("reached {rank}"));
        (0..3).all(|rank| reached(&rank)).then_some(printed)
    };
    let printed = wait_for("all to reach the last", SLOWLY, || all_reach(&parts));
    let named: Vec<_> = printed.lines().filter_map(|line| line.split_once("named ")).collect();
    assert_eq!(named.len(), 3, "{printed}");
    let addresses: BTreeSet<_> = named.iter().map(|(_, text)| text[2..].to_owned()).collect();
    assert_eq!(addresses.len(), 1, "all mean the same: {printed}");
    assert!(addresses.iter().all(|one| one.starts_with("fdaa:")), "{printed}");

    // To all others IPv4 between containers is refused, here and there.
    let mut ipv4 = printed.lines().find_map(|line| line.split_once("begun ")?.1.split_once(' '));
    let members: Vec<_> = ipv4.take().expect("addresses").1.split(',').collect();
    let stranger = region.hosts[0].private("stranger");
    for member in &members {
        let ping = stranger.netns.command("ping").args(["-c", "1", "-W", "1", member]).output_of();
        assert!(!ping.status.success(), "a stranger reaches {member}: {ping}");
    }
    let refused = region.hosts[0].edge.metrics().packets("tc_container", "between_containers");
    assert!(refused >= 4.0, "{refused} packets were refused");

    // Who is listed is listed with its cluster, and the stranger with none.
    let ranks = |containers: Vec<Container>| {
        let places = containers.into_iter().filter_map(|one| one.cluster);
        let ranks = places.map(|place| (place.name, place.rank, place.size));
        ranks.collect::<BTreeSet<_>>()
    };
    let whole: BTreeSet<_> = (0..4).map(|rank| ("train".to_owned(), rank, 4)).collect();
    let own = [0, 1].map(|host| ranks(region.hosts[host].edge.containers()));
    assert_eq!(own.each_ref().map(BTreeSet::len), [2, 2], "{own:?}");
    assert_eq!(&own[0] | &own[1], whole);
    for machine in region.machines() {
        let listed = machine.edge.cli(&["containers", "--region", "--json"]).ok();
        let listed = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(ranks(listed), whole, "as {} knows them", machine.place.name);
    }
    let table = region.gateway().edge.cli(&["containers", "--region"]).ok();
    assert!(table.stdout.contains(" train 3/4"), "{table}");

    // One that dies ends all, there too.
    parts[1].signal(Signal::SIGKILL);
    let [first, _] = &mut parts;
    assert_eq!(first.wait(PATIENCE).code(), Some(FAILURE), "{}", first.printed());
    assert!(first.printed().contains("cluster \"train\": rank "), "{}", first.printed());
    wait_for("the members of both hosts to be gone", PATIENCE, || {
        let left = region.hosts.iter().flat_map(|host| host.edge.containers());
        (left.count() == 1).then_some(())
    });
}

#[test]
fn a_machine_that_dies_ends_the_gang_on_the_others() {
    let (mut region, mut parts) = on_two_hosts(part);
    for one in &mut parts {
        one.wait_line("begun", PATIENCE);
    }
    // With all that runs on it, and its daemon first: nobody says that anything has ended.
    region.hosts[1].edge.kill9();
    parts[1].kill();
    let [first, _] = &mut parts;
    // Its lease, and the time that a daemon may need to come back.
    assert_eq!(first.wait(SLOWLY + PATIENCE).code(), Some(FAILURE), "{}", first.printed());
    assert!(first.printed().contains("hears nothing any more of rank"), "{}", first.printed());
}
