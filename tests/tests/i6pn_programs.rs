//! Programs that people run, on several hosts, with each other's names.

use std::{fs, os::unix::fs::chown, path::PathBuf};

use tests::{
    edge::Edge,
    lab::PATIENCE,
    process::{Output, Running, Start as _, wait_for},
    region::{Plan, Region, Underlay},
};

#[test]
fn iperf3_measures_between_hosts() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).up();
        let _server = run(&region.hosts[0].edge, "server", &["iperf3", "--server"]);
        let words = ["iperf3", "--client", "server", "-6", "--time", "1", "--json"];
        for more in [&[][..], &["--reverse"], &["--udp", "--bitrate", "50M"]] {
            let words = [&words[..], more].concat();
            // With --json it ends well even if there is no server yet.
            wait_for(&format!("{underlay}: iperf3 {more:?}"), 2 * PATIENCE, || {
                let output = ask(&region.hosts[1].edge, &words);
                let result: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
                let bytes = result["end"]["sum_received"]["bytes"].as_f64();
                let bytes = bytes.or_else(|| result["end"]["sum"]["bytes"].as_f64());
                bytes.is_some_and(|bytes| bytes > 1e6).then_some(())
            });
        }
    }
}

#[test]
fn redis_replicates_by_name() {
    let region = Region::over(Underlay::V4);
    let [db, replica, client] = [0, 1, 2].map(|host: usize| &region.hosts[host].edge);
    let server = ["redis-server", "--bind", "::", "--protected-mode", "no", "--save", ""];
    let _db = run(db, "db", &server);
    let _replica = run(
        replica,
        "replica",
        &[&server[..], &["--replicaof", "db.main.edge.internal", "6379"]].concat(),
    );
    let value = "carried from host to host";
    until_it_works(client, &["redis-cli", "-h", "db", "set", "greeting", value]);
    wait_for("the replica to have it", 2 * PATIENCE, || {
        let output = ask(client, &["redis-cli", "-h", "replica", "get", "greeting"]);
        output.stdout.contains(value).then_some(())
    });
}

#[test]
fn psql_finds_postgresql_on_another_host() {
    let region = Plan::over(Underlay::Direct).hosts(2).up();
    let database = Database::new();
    let _server = database.serve(&region.hosts[0].edge);
    let query = ["psql", "-h", "pg.main.edge.internal", "-U", "postgres", "-Atc"];
    let output = until_it_works(&region.hosts[1].edge, &[&query[..], &["select 6 * 7"]].concat());
    assert_eq!(output.stdout_str(), "42");
    // Larger than any buffer on the way.
    let large = "select length(string_agg(md5(n::text), '')) from generate_series(1, 200000) n";
    let output = until_it_works(&region.hosts[1].edge, &[&query[..], &[large]].concat());
    assert_eq!(output.stdout_str(), "6400000");
}

/// A private container, for as long as the guard.
#[track_caller]
fn run(edge: &Edge, name: &str, program: &[&str]) -> Running {
    edge.run(&[&["--i6pn", "--name", name, "--"], program].concat())
}

/// A private container that runs a program to its end.
#[track_caller]
fn ask(edge: &Edge, program: &[&str]) -> Output {
    edge.cli(&[&["run", "--i6pn", "--"], program].concat())
}

/// The same, until the server is there and known.
#[track_caller]
fn until_it_works(edge: &Edge, program: &[&str]) -> Output {
    let mut last = None;
    wait_for(&format!("{program:?}"), 2 * PATIENCE, || {
        let output = ask(edge, program);
        let works = output.status.success();
        last = Some(output);
        works.then_some(())
    });
    last.expect("it ran at least once")
}

/// A cluster of PostgreSQL, owned by the user that the package made: the server refuses root.
struct Database {
    folder: tempfile::TempDir,
    programs: PathBuf,
    user: nix::unistd::User,
}

impl Database {
    fn new() -> Self {
        let user = nix::unistd::User::from_name("postgres").expect("the machine's users");
        let user = user.expect("no user postgres; `cargo xtask setup` installs postgresql");
        let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is not installed");
        let programs = versions.flatten().map(|version| version.path().join("bin"));
        let programs = programs.max().expect("postgresql is not installed");
        let folder = tempfile::tempdir().expect("a test's own step");
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("a test's own step");
        let database = Self { folder, programs, user };
        let mut initdb = std::process::Command::new("setpriv");
        initdb.args(database.become_postgres()).arg(database.programs.join("initdb"));
        initdb.args(["--auth", "trust", "--no-sync", "--pgdata"]).arg(database.data());
        initdb.output_of().ok();
        let rules = database.data().join("pg_hba.conf");
        let text = fs::read_to_string(&rules).expect("what initdb wrote");
        fs::write(rules, format!("{text}\nhost all all fdaa::/16 trust\n"))
            .expect("a test's own step");
        database
    }

    fn serve(&self, edge: &Edge) -> Running {
        let (program, data) = (self.programs.join("postgres"), self.data());
        let sockets = self.folder.path().to_str().expect("a path").to_owned();
        let [program, data] = [program, data].map(|path| path.to_str().expect("a path").to_owned());
        let own = self.become_postgres();
        let own = own.iter().map(String::as_str);
        let words = ["-D", &data, "-k", &sockets, "-c", "listen_addresses=*", "-c", "fsync=off"];
        let words: Vec<_> =
            ["setpriv"].into_iter().chain(own).chain([&*program]).chain(words).collect();
        run(edge, "pg", &words)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn become_postgres(&self) -> [String; 3] {
        let (uid, gid) = (self.user.uid, self.user.gid);
        [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]
    }
}
