//! Where tables and links are pinned, and what an earlier daemon left there.
//!
//! `v<LAYOUT>/maps/NAME` and `v<LAYOUT>/links/KIND-INTERFACE` under the daemon's directory on a
//! BPF file system. The kernel keeps both while no daemon runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{MapError, MapInfo},
};
use edge_common::tables::LAYOUT;

use super::DatapathError;

/// Tables that go with the daemon: its sockets, the log, and what its listener hears; and so do
/// the programs' constants.
const UNPINNED: [&str; 5] =
    ["RAW_LISTENERS", "AYA_LOGS", "TRACE_EVENTS", "TRACE_FILTER", "TRACE_NOTES"];

/// A daemon's directory on a BPF file system.
pub(super) struct Pins {
    root: PathBuf,
    own: PathBuf,
    /// Links that an earlier daemon pinned and this one has not taken up, by name.
    inherited: BTreeMap<String, PathBuf>,
}

/// What became of an earlier daemon's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inheritance {
    /// There were none.
    Nothing,
    /// They are in use.
    Adopted,
    /// They are not this version's, for this reason: the tables are new.
    Foreign(String),
}

impl Pins {
    pub(super) fn open(root: &Path) -> Result<Self, DatapathError> {
        let own = root.join(format!("v{LAYOUT}"));
        let mut pins = Self { root: root.to_owned(), own, inherited: BTreeMap::new() };
        make(&pins.own.join("links"))?;
        pins.look();
        Ok(pins)
    }

    /// Finds the links that are pinned now, of whatever layout.
    pub(super) fn look(&mut self) {
        self.inherited.clear();
        for version in versions(&self.root) {
            // Once, links lay beside where tables lie now.
            for folder in [version.join("links"), version] {
                for (name, path) in entries(&folder) {
                    if name.starts_with("tcx-") || name.starts_with("xdp-") {
                        self.inherited.entry(name).or_insert(path);
                    }
                }
            }
        }
    }

    /// What the link of an interface is called. A BPF file system takes no dots, which VLANs'
    /// names have, and no interface has a colon.
    pub(super) fn name(kind: &str, interface: &str) -> String {
        format!("{kind}-{}", interface.replace('.', ":"))
    }

    /// The path of a link of this daemon's.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.own.join("links").join(name)
    }

    /// Where an earlier daemon pinned a link of this name, told once.
    pub(super) fn inherit(&mut self, name: &str) -> Option<PathBuf> {
        self.inherited.remove(name)
    }

    /// The path of a table.
    pub(super) fn table(&self, name: &str) -> PathBuf {
        self.own.join("maps").join(name)
    }

    /// Whether the pinned tables are just like these new ones; if not, these are pinned in their
    /// place, and programs that still run on the old ones keep them until they are replaced.
    pub(super) fn compare(&self, new: &Ebpf) -> Result<Inheritance, DatapathError> {
        let (maps, fresh) = (self.own.join("maps"), self.own.join("maps-new"));
        remove(&fresh)?;
        make(&fresh)?;
        for (name, map) in new.maps().filter(|(name, _)| is_pinned(name)) {
            let path = fresh.join(name);
            map.pin(&path).map_err(|error| DatapathError::Pins {
                path: path.clone(),
                source: error.into(),
            })?;
        }
        let inheritance = self.judge(&maps, &fresh)?;
        if inheritance == Inheritance::Adopted {
            remove(&fresh)?;
        } else {
            remove(&maps)?;
            fs::rename(&fresh, &maps)
                .map_err(|source| DatapathError::Pins { path: maps, source: source.into() })?;
        }
        Ok(inheritance)
    }

    /// Removes what no part of this daemon has taken up: links, and what other layouts left.
    pub(super) fn settle(&mut self) {
        for (name, path) in std::mem::take(&mut self.inherited) {
            tracing::info!(link = name, "a link of an earlier daemon is not needed any more");
            warn(&path, fs::remove_file(&path));
        }
        for version in versions(&self.root).filter(|version| *version != self.own) {
            tracing::info!(path = %version.display(), "tables of another layout are removed");
            warn(&version, fs::remove_dir_all(&version));
        }
    }

    fn judge(&self, maps: &Path, fresh: &Path) -> Result<Inheritance, DatapathError> {
        let names = |folder| entries(folder).map(|(name, _)| name).collect::<BTreeSet<_>>();
        let (old, new) = (names(maps), names(fresh));
        if old.is_empty() {
            let other = versions(&self.root).find(|version| *version != self.own);
            let other = other.and_then(|path| Some(path.file_name()?.display().to_string()));
            return Ok(match other {
                Some(version) => Inheritance::Foreign(format!("they are of layout {version}")),
                None if self.inherited.is_empty() => Inheritance::Nothing,
                None => Inheritance::Foreign("they are not pinned".into()),
            });
        }
        if let Some(name) = old.symmetric_difference(&new).next() {
            return Ok(Inheritance::Foreign(format!("only one of both versions knows {name}")));
        }
        for name in &new {
            let (had, wants) = (shape(&maps.join(name))?, shape(&fresh.join(name))?);
            if had != wants {
                return Ok(Inheritance::Foreign(format!("{name} has another shape")));
            }
        }
        Ok(Inheritance::Adopted)
    }
}

/// Whether a table outlives the daemon.
pub(super) fn is_pinned(name: &str) -> bool {
    !name.starts_with('.') && !UNPINNED.contains(&name)
}

/// Type, flags, sizes of key and value, and number of rows.
fn shape(pin: &Path) -> Result<(String, [u32; 4]), DatapathError> {
    let failed =
        |error: MapError| DatapathError::Pins { path: pin.to_owned(), source: error.into() };
    let info = MapInfo::from_pin(pin).map_err(failed)?;
    let sizes = [info.map_flags(), info.key_size(), info.value_size(), info.max_entries()];
    Ok((format!("{:?}", info.map_type().map_err(failed)?), sizes))
}

/// The directories of all layouts.
fn versions(root: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let is_version = |name: &str| name.strip_prefix('v').is_some_and(|v| v.parse::<u32>().is_ok());
    entries(root).filter(move |(name, _)| is_version(name)).map(|(_, path)| path)
}

fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

fn make(folder: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(folder)
        .map_err(|source| DatapathError::Pins { path: folder.to_owned(), source: source.into() })
}

fn remove(folder: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Pins { path: folder.to_owned(), source: error.into() })
        }
        _ => Ok(()),
    }
}

fn warn(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a pin stays");
    }
}
