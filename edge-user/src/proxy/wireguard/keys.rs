//! A machine's key pair.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use data_encoding::BASE64;
use gotatun::x25519::{PublicKey, StaticSecret};

use crate::whole_files;

/// A machine's keys of WireGuard, in its state directory: a restart changes nothing.
#[derive(Clone)]
pub struct Keys {
    secret: StaticSecret,
    made: SystemTime,
    path: PathBuf,
}

impl Keys {
    /// Those of a state directory; makes them if there are none.
    ///
    /// # Errors
    /// If the file cannot be read or written, or is something else.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("wireguard.key");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let secret = decoded(text.trim()).ok_or_else(|| {
                    let why = format!("{}: it is no key; move it away", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, why)
                })?;
                let made = fs::metadata(&path)?.modified()?;
                Ok(Self { secret: secret.into(), made, path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self { path, ..Self::new() };
                keys.save()?;
                Ok(keys)
            }
            Err(error) => Err(error),
        }
    }

    /// A new pair, kept nowhere yet.
    pub(super) fn new() -> Self {
        let secret: [u8; 32] = rand::random();
        Self { secret: secret.into(), made: SystemTime::now(), path: PathBuf::new() }
    }

    /// Takes another pair, and keeps it where this one is kept.
    ///
    /// # Errors
    /// If it cannot be written; then all is as before.
    pub(super) fn replace(&mut self, next: Self) -> io::Result<()> {
        let next = Self { path: self.path.clone(), ..next };
        next.save()?;
        *self = next;
        Ok(())
    }

    fn save(&self) -> io::Result<()> {
        let text = BASE64.encode(self.secret.as_bytes());
        whole_files::write(&self.path, text.as_bytes(), whole_files::PRIVATE)
    }

    /// How long ago it was made; nothing after the clock was set back.
    pub(super) fn age(&self) -> Duration {
        self.made.elapsed().unwrap_or_default()
    }

    /// The public one, in base64.
    pub fn public(&self) -> String {
        let (_, public) = self.pair();
        BASE64.encode(public.as_bytes())
    }

    /// Both.
    pub(super) fn pair(&self) -> (StaticSecret, PublicKey) {
        (self.secret.clone(), PublicKey::from(&self.secret))
    }
}

/// A key in base64.
pub(super) fn decoded(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open(dir.path()).unwrap().public();
        let mut kept = Keys::open(dir.path()).unwrap();
        assert_eq!(kept.public(), first);
        assert!(kept.age() < Duration::from_secs(600));
        kept.replace(Keys::new()).unwrap();
        assert_ne!(kept.public(), first);
        assert_eq!(Keys::open(dir.path()).unwrap().public(), kept.public());
        let first = kept.public();
        assert!(decoded(&first).is_some());
        fs::write(dir.path().join("wireguard.key"), "nonsense").unwrap();
        assert!(Keys::open(dir.path()).is_err());
    }
}
