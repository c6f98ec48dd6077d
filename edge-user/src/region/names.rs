//! Names of tunnels and ids: random, so that they cannot be guessed and never come twice.

use data_encoding::BASE32_NOPAD;

/// A new TLS name under the domain: 16 characters of 80 random bits, then the domain.
pub fn tunnel_host(domain: &str) -> String {
    format!("{}.{domain}", random::<10>())
}

/// The same label under another domain, as an operator may choose at a restart.
pub fn under(host: &str, domain: &str) -> String {
    let label = host.split('.').next().unwrap_or(host);
    format!("{label}.{domain}")
}

/// A new id: the prefix and 12 characters of 60 random bits, as `tu-4f2k…`.
pub fn id(prefix: &str) -> String {
    let mut id = random::<8>();
    id.truncate(12);
    format!("{prefix}-{id}")
}

/// A secret of 160 random bits, as text.
pub fn secret() -> String {
    random::<20>()
}

/// Random bytes in lower-case base32.
fn random<const BYTES: usize>() -> String {
    // The thread's generator is cryptographic: a name is all that keeps strangers out.
    BASE32_NOPAD.encode(&rand::random::<[u8; BYTES]>()).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_of_the_promised_size() {
        let name = tunnel_host("r5.example.com");
        let label = name.strip_suffix(".r5.example.com").unwrap();
        assert_eq!(label.len(), 16);
        assert!(
            label.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
        );
        assert_ne!(name, tunnel_host("r5.example.com"));
        assert_eq!(id("tu").len(), "tu-".len() + 12);
        assert_eq!(under("abc.r1.localhost", "r5.example.com"), "abc.r5.example.com");
    }
}
