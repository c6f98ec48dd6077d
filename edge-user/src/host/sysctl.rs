//! Kernel settings that edge changes, and puts back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Said to all interfaces at once: each forgets its own setting.
const FORWARD_IPV4: &str = "net/ipv4/ip_forward";
const FORWARD_IPV6: &str = "net/ipv6/conf/all/forwarding";

/// The settings of this process's namespace that were changed, with what they were before. The
/// record lies in a file, so that a daemon that was killed leaves its successor what to restore.
#[derive(Debug)]
pub struct Sysctls {
    record: PathBuf,
    before: BTreeMap<String, String>,
}

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("kernel setting {name} cannot be changed; edge needs root and a writable /proc/sys")]
pub struct SysctlError {
    name: String,
    #[source]
    source: io::Error,
}

impl SysctlError {
    fn of(name: &str, source: io::Error) -> Self {
        Self { name: name.replace('/', "."), source }
    }
}

impl Sysctls {
    /// Where it is recorded what they were.
    pub fn record_path(run_dir: &Path) -> PathBuf {
        run_dir.join("sysctl.json")
    }

    /// Takes up the record in `run_dir`, if a daemon left one there.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let record = Self::record_path(run_dir);
        let before = match fs::read(&record) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { record, before })
    }

    /// Sets a value (`net/ipv4/ip_forward`), remembering the one before.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
        let failed = |source| SysctlError::of(name, source);
        let old = read(name).map_err(failed)?;
        if old == value {
            return Ok(());
        }
        self.remember(name, &old).map_err(failed)?;
        write(name, value).map_err(failed)
    }

    fn remember(&mut self, name: &str, value: &str) -> io::Result<()> {
        if self.before.contains_key(name) {
            return Ok(());
        }
        self.before.insert(name.to_owned(), value.to_owned());
        self.save()
    }

    /// Lets IPv4 packets go on from one interface to another.
    pub fn forward_ipv4(&mut self) -> Result<(), SysctlError> {
        if read(FORWARD_IPV4).is_ok_and(|forwards| forwards == "0") {
            for interface in interfaces("ipv4")? {
                self.remember_if_set(&format!("{interface}/forwarding"), "1")?;
            }
            // A machine that forwards no more heeds redirects, whatever was said before.
            self.remember_if_set("net/ipv4/conf/all/accept_redirects", "0")?;
        }
        self.set(FORWARD_IPV4, "1")
    }

    /// Lets IPv6 packets go on from one interface to another. What took the way out from router
    /// advertisements still does, which a machine that forwards would not.
    pub fn forward_ipv6(&mut self) -> Result<(), SysctlError> {
        match read(FORWARD_IPV6) {
            Ok(forwards) if forwards == "0" => {}
            Ok(_) => return Ok(()),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(SysctlError::of(FORWARD_IPV6, error)),
        }
        for interface in interfaces("ipv6")? {
            let accept = format!("{interface}/accept_ra");
            self.remember_if_set(&format!("{interface}/force_forwarding"), "1")?;
            // One that forwards did not listen to routers before, either.
            if !self.remember_if_set(&format!("{interface}/forwarding"), "1")?
                && read(&accept).is_ok_and(|accepts| accepts == "1")
                && let Err(error) = self.set(&accept, "2")
                // One that is gone again hears nobody.
                && error.source.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        self.set(FORWARD_IPV6, "1")
    }

    /// A setting that goes with another one, which edge changes; answers whether it is so.
    fn remember_if_set(&mut self, name: &str, value: &str) -> Result<bool, SysctlError> {
        let is_set = read(name).is_ok_and(|read| read == value);
        if is_set {
            self.remember(name, value).map_err(|error| SysctlError::of(name, error))?;
        }
        Ok(is_set)
    }

    /// What a setting was before edge changed it.
    pub fn original(&self, name: &str) -> Result<String, SysctlError> {
        match self.before.get(name) {
            Some(before) => Ok(before.clone()),
            None => read(name).map_err(|source| SysctlError::of(name, source)),
        }
    }

    /// Puts every value back and forgets the record.
    pub fn restore(&mut self) {
        let mut before: Vec<_> = std::mem::take(&mut self.before).into_iter().collect();
        // First what is said to all, then what interfaces forward by themselves: with that the
        // kernel forgets the ways that routers told it of, where it does not heed those all the same.
        before.sort_by_key(|(name, _)| {
            let is_of_all = [FORWARD_IPV4, FORWARD_IPV6].contains(&name.as_str());
            (!is_of_all, !name.ends_with("forwarding"))
        });
        for (name, value) in before {
            // What was an interface's goes with it.
            if let Err(error) = write(&name, &value)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(name, value, %error, "kernel setting not restored");
            }
        }
        if let Err(error) = fs::remove_file(&self.record)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(record = %self.record.display(), %error, "record not removed");
        }
    }

    /// In one step: half a record would keep every later daemon from starting.
    fn save(&self) -> io::Result<()> {
        let new = self.record.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.before)?)?;
        fs::rename(&new, &self.record)
    }
}

/// Where the settings of each interface are, and of those that are made later (`default`).
fn interfaces(family: &str) -> Result<Vec<String>, SysctlError> {
    let folder = format!("net/{family}/conf");
    let failed = |source| SysctlError::of(&folder, source);
    let entries = fs::read_dir(Path::new("/proc/sys").join(&folder)).map_err(failed)?;
    let name = |entry: io::Result<fs::DirEntry>| {
        Ok(format!("{folder}/{}", entry?.file_name().to_string_lossy()))
    };
    entries.map(name).collect::<io::Result<_>>().map_err(failed)
}

/// Lets an interface of this thread's namespace take IPv6 packets that only go on: see
/// [`quiet_ipv6`]. Answers whether it does: not on a kernel without IPv6, nor where fewer than 1280
/// bytes fit.
pub fn take_ipv6(interface: &str) -> io::Result<bool> {
    let taken = quiet_ipv6(interface)
        .and_then(|()| write(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0"));
    match taken {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        taken => taken.map(|()| true),
    }
}

/// No link-local address, no router advertisements: what is at an interface's other end is known.
pub fn quiet_ipv6(interface: &str) -> io::Result<()> {
    write(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1")?;
    write(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")
}

/// Reads a setting of this thread's namespace.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(Path::new("/proc/sys").join(name))?.trim().to_owned())
}

/// Writes a setting of this thread's namespace.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    // Writing nothing is no write: a lone newline makes a list empty.
    let value = if value.is_empty() { "\n" } else { value };
    fs::write(Path::new("/proc/sys").join(name), value)
}

/// The ports that connecting programs are not given.
pub const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";

/// Adds ports to this thread's namespace's list of those that connecting programs are not given.
pub fn reserve_ports(first: u16, last: u16) -> io::Result<()> {
    write(RESERVED_PORTS, &with_range(&read(RESERVED_PORTS)?, first, last))
}

/// Takes one port off that list.
pub fn release_port(port: u16) -> io::Result<()> {
    write(RESERVED_PORTS, &without(&read(RESERVED_PORTS)?, port))
}

/// A list of ports with one more range.
pub fn with_range(list: &str, first: u16, last: u16) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if list.is_empty() { range } else { format!("{list},{range}") }
}

/// The kernel merges neighbours into ranges, so the port may be inside one.
fn without(list: &str, port: u16) -> String {
    let mut kept = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { continue };
        if port < first || port > last {
            kept.push((first, last));
            continue;
        }
        if first < port {
            kept.push((first, port - 1));
        }
        if port < last {
            kept.push((port + 1, last));
        }
    }
    kept.iter().fold(String::new(), |list, (first, last)| with_range(&list, *first, *last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_and_go_whatever_the_kernel_merged() {
        assert_eq!(with_range("", 80, 80), "80");
        assert_eq!(with_range("80", 8000, 8001), "80,8000-8001");
        assert_eq!(without("80,8000-8002", 8001), "80,8000,8002");
        assert_eq!(without("80,8000-8002", 80), "8000-8002");
        assert_eq!(without("80", 80), "");
        assert_eq!(without("8000-8001", 8001), "8000");
    }
}
