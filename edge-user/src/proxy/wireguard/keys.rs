//! A machine's key pair.

use std::{fs, io, path::Path};

use data_encoding::BASE64;
use gotatun::x25519::{PublicKey, StaticSecret};

use crate::whole_files;

/// A machine's keys of WireGuard, in its state directory: a restart changes nothing.
#[derive(Clone)]
pub struct Keys {
    pub(super) secret: StaticSecret,
}

impl Keys {
    /// Those of a state directory; makes them if there are none.
    ///
    /// # Errors
    /// If the file cannot be read or written, or is something else.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("wireguard.key");
        let secret: [u8; 32] = match fs::read_to_string(&path) {
            Ok(text) => decoded(text.trim()).ok_or_else(|| {
                let why = format!("{}: it is no key; move it away", path.display());
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret: [u8; 32] = rand::random();
                whole_files::write(&path, BASE64.encode(&secret).as_bytes(), whole_files::PRIVATE)?;
                secret
            }
            Err(error) => return Err(error),
        };
        Ok(Self { secret: secret.into() })
    }

    /// The public one, in base64.
    pub fn public(&self) -> String {
        BASE64.encode(PublicKey::from(&self.secret).as_bytes())
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
        assert_eq!(Keys::open(dir.path()).unwrap().public(), first);
        assert!(decoded(&first).is_some());
        fs::write(dir.path().join("wireguard.key"), "nonsense").unwrap();
        assert!(Keys::open(dir.path()).is_err());
    }
}
