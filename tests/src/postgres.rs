//! A PostgreSQL server of a test's own.

use std::{fs, os::unix::fs::chown, path::PathBuf, process::Command};

use crate::process::Start as _;

/// A cluster of PostgreSQL, owned by the user that the package made: the server refuses root.
pub struct Database {
    folder: tempfile::TempDir,
    programs: PathBuf,
    user: nix::unistd::User,
}

impl Database {
    /// Lets in whom this line of `pg_hba.conf` does, and its own machine.
    #[track_caller]
    pub fn new(rule: &str) -> Self {
        let user = nix::unistd::User::from_name("postgres").expect("the machine's users");
        let user = user.expect("no user postgres; `cargo xtask setup` installs postgresql");
        let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is not installed");
        let programs = versions.flatten().map(|version| version.path().join("bin"));
        let programs = programs.max().expect("postgresql is not installed");
        let folder = tempfile::tempdir().expect("a test's own step");
        chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("a test's own step");
        let database = Self { folder, programs, user };
        let mut initdb = Command::new("setpriv");
        initdb.args(database.become_postgres()).arg(database.programs.join("initdb"));
        initdb.args(["--auth", "trust", "--no-sync", "--pgdata"]).arg(database.data());
        initdb.output_of().ok();
        let rules = database.data().join("pg_hba.conf");
        let text = fs::read_to_string(&rules).expect("what initdb wrote");
        fs::write(rules, format!("{text}\n{rule}\n")).expect("a test's own step");
        database
    }

    /// The program that serves it, and its arguments.
    pub fn server(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().expect("a readable path").to_owned();
        let mut words = vec!["setpriv".to_owned()];
        words.extend(self.become_postgres());
        words.push(text(self.programs.join("postgres")));
        words.extend(["-D".to_owned(), text(self.data()), "-k".to_owned()]);
        words.push(text(self.folder.path().to_owned()));
        words.extend(["-c", "listen_addresses=*", "-c", "fsync=off"].map(str::to_owned));
        words
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn become_postgres(&self) -> [String; 3] {
        let (uid, gid) = (self.user.uid, self.user.gid);
        [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]
    }
}
