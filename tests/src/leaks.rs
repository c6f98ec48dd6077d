//! What a daemon must not leave behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{lab::PATIENCE, netns::NetNs, process::Start};

/// Where daemons pin maps and links.
pub(crate) const PINS: &str = "/sys/fs/bpf/edge";
/// What a daemon may change and must put back.
const SYSCTLS: [&str; 5] = [
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
];

/// Links, addresses, routes, rules, nftables and kernel parameters of one namespace, with the
/// pins and namespaces of one instance. Other tests run beside: what is not theirs to tell
/// apart is not looked at.
#[derive(Debug)]
pub struct Snapshot {
    netns: NetNs,
    instance: String,
    seen: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at the namespace that a daemon of this instance runs in.
    #[track_caller]
    pub fn of(netns: &NetNs, instance: &str) -> Self {
        let seen = look(netns, instance);
        Self { netns: netns.clone(), instance: instance.to_owned(), seen }
    }

    /// Whether anything that was seen has this text in it.
    pub fn has(&self, text: &str) -> bool {
        self.seen.iter().any(|one| one.contains(text))
    }

    /// Looks again until it is as it was, for the kernel takes its time with what it was told to
    /// remove; panics with what came and what went.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let begun = Instant::now();
        let mut now = look(&self.netns, &self.instance);
        while now != self.seen && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
            now = look(&self.netns, &self.instance);
        }
        let came: Vec<_> = now.difference(&self.seen).collect();
        let went: Vec<_> = self.seen.difference(&now).collect();
        assert!(
            now == self.seen,
            "{} was left changed\ncame: {came:#?}\nwent: {went:#?}",
            self.netns.name()
        );
    }
}

fn look(netns: &NetNs, instance: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (kind, words) in [
        ("address", &["-brief", "address"][..]),
        ("route", &["-4", "route", "show", "table", "all"]),
        ("route", &["-6", "route", "show", "table", "all"]),
        ("rule", &["-4", "rule"]),
        ("rule", &["-6", "rule"]),
    ] {
        let listed = netns.ip(words);
        // The kernel adds routes to its own link-local addresses some time after these.
        let lines = listed.lines().filter(|line| kind != "route" || !line.contains(" fe80:"));
        seen.extend(lines.map(|line| format!("{kind}: {}", line.trim())));
    }
    let nft = netns.command("nft").args(["--stateless", "list", "ruleset"]).output_of().ok();
    let mut table = "";
    for line in nft.stdout.lines() {
        // Rules alike may stand in several tables.
        if line.starts_with("table") {
            table = line;
        }
        seen.insert(format!("nft: {table} {}", line.trim()));
    }
    netns.enter(|| {
        for name in SYSCTLS {
            let value = fs::read_to_string(format!("/proc/sys/{name}"));
            let value = value.unwrap_or_else(|error| panic!("cannot read {name}: {error}"));
            seen.insert(format!("sysctl: {name} = {}", value.trim()));
        }
    });
    seen.extend(names("/run/netns", instance).map(|name| format!("namespace: {name}")));
    for name in names(PINS, instance) {
        let pins = Path::new(PINS).join(&name);
        seen.extend(below(&pins).map(|pin| format!("pin: {}", pin.display())));
        seen.insert(format!("pins: {name}"));
    }
    seen
}

/// All that lies in a folder, however deep.
fn below(folder: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    Box::new(entries.flat_map(|path| below(&path).chain([path])))
}

/// Entries of the folder that carry the instance's name; none if there is no such folder.
fn names(folder: impl AsRef<Path>, instance: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(move |name| name.contains(instance))
}
