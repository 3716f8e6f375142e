//! [`Htpasswd`]: users and password hashes, by bcrypt as from Apache's `htpasswd -B`, or by argon2id.

use std::collections::BTreeMap;
use std::fmt;

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::Secret;
use crate::credentials::USER_BYTES_MAX;
use crate::random::sha256_hex;

/// Maximum size of a file, in bytes.
pub const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum users of a file.
pub const USERS_MAX: usize = 100_000;
/// Maximum cost of a bcrypt hash: about 4 s on a fast core.
const BCRYPT_COST_MAX: u32 = 16;
/// Maximum memory of an argon2id hash, in KiB, and maximum passes and lanes.
const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;
const ARGON2_PASSES_MAX: u32 = 16;
const ARGON2_LANES_MAX: u32 = 16;
/// Maximum kinds and costs of hashes that a wrong password is compared with. With more of them in a
/// file, some users can be distinguished by timing.
const CLASSES_COMPARED_MAX: usize = 8;
/// Length of a password fingerprint.
const FINGERPRINT_CHARS: usize = 32;

/// The hash for unknown users if the file has no user: argon2id with the
/// parameters of [`hash_password`], of an unused password.
const UNKNOWN_USER_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5\
                      $Wv5vCYdrnw0Wbn2R3cFD3ZfTn0X6bJbYQy0xP0Qy1tE";

/// The users of one file.
#[derive(Clone, Debug, Default)]
pub struct Htpasswd {
    users: BTreeMap<String, HtpasswdEntry>,
    /// One entry of each class, at most [`CLASSES_COMPARED_MAX`].
    classes: BTreeMap<HashCost, HtpasswdEntry>,
}

/// A user's hash.
#[derive(Clone, PartialEq, Eq)]
pub struct HtpasswdEntry {
    hash: String,
    kind: HashKind,
    class: HashCost,
}

/// The cost of a hash: bcrypt's cost, argon2id's memory, passes and lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct HashCost([u32; 4]);

/// Memory for argon2id hashes, as large as the costliest one needed. Reuse it: 19 MiB and more for each
/// hash, allocated and freed among smaller allocations, fragment the heap.
#[derive(Debug, Default)]
pub struct HashMemory(Vec<Block>);

/// The hashes that a password is compared with.
#[derive(Clone, Debug)]
pub struct PasswordComparison {
    own: Option<HtpasswdEntry>,
    /// Entries with the costs of other users, to equalize the time.
    others: Vec<HtpasswdEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashKind {
    Bcrypt,
    Argon2id,
}

/// Error of an invalid file. Messages contain no hashes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HtpasswdError {
    #[error("it is larger than {FILE_BYTES_MAX} bytes or has more than {USERS_MAX} users")]
    TooLarge,
    #[error("line {line}: {why}")]
    Line {
        /// From 1.
        line: usize,
        why: &'static str,
    },
}

/// Error of an invalid user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user's name is 1 to {USER_BYTES_MAX} bytes without colon, spaces at its ends, or control \
     characters, and does not begin with #"
)]
pub struct InvalidUser;

impl fmt::Debug for HtpasswdEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} [redacted]", self.kind)
    }
}

impl Htpasswd {
    /// Parses a file: a name, a colon and a hash on each line; empty lines and lines that begin
    /// with `#` are ignored.
    ///
    /// # Errors
    ///
    /// [`HtpasswdError`]: the whole file is rejected if one line is invalid.
    pub fn parse(text: &str) -> Result<Self, HtpasswdError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(HtpasswdError::TooLarge);
        }
        let mut users = BTreeMap::new();
        let mut classes = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let wrong = |why| HtpasswdError::Line { line: number, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = line.split_once(':').ok_or_else(|| wrong("it must be NAME:HASH"))?;
            check_name(name).map_err(|_| wrong("its name is not allowed"))?;
            let entry = HtpasswdEntry::parse(hash).map_err(wrong)?;
            if classes.len() < CLASSES_COMPARED_MAX {
                classes.entry(entry.class).or_insert_with(|| entry.clone());
            }
            if users.insert(name.to_owned(), entry).is_some() {
                return Err(wrong("this user is repeated"));
            }
        }
        if users.len() > USERS_MAX {
            return Err(HtpasswdError::TooLarge);
        }
        Ok(Self { users, classes })
    }

    /// The entry of a user.
    pub fn get(&self, name: &str) -> Option<&HtpasswdEntry> {
        self.users.get(name)
    }

    /// The names of all users, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The hashes to compare the password of `name` with. A wrong password costs the same work for every
    /// name, existing or not: one hash of each kind and cost in the file.
    pub fn to_compare(&self, name: &str) -> PasswordComparison {
        let own = self.users.get(name).cloned();
        let class = own.as_ref().map(|entry| entry.class);
        let others = self.classes.iter().filter(|(of, _)| Some(**of) != class);
        let mut others: Vec<_> = others.map(|(_, entry)| entry.clone()).collect();
        if own.is_none() && others.is_empty() {
            others.push(HtpasswdEntry::unknown_user());
        }
        PasswordComparison { own, others }
    }
}

impl HashMemory {
    /// Whether an argon2id hash is that of a password. `None`: it is malformed.
    fn verify(&mut self, password: &[u8], hash: &str) -> Option<bool> {
        let hash = PasswordHash::new(hash).ok()?;
        let params = Params::try_from(&hash).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let (salt, expected) = (hash.salt.as_ref()?, hash.hash.as_ref()?);
        if self.0.len() < params.block_count() {
            self.0.resize(params.block_count(), Block::new());
        }
        let mut bytes = vec![0; expected.len()];
        let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
        argon2
            .hash_password_into_with_memory(password, salt.as_ref(), &mut bytes, &mut self.0)
            .ok()?;
        // Compared in constant time.
        Some(Output::new(&bytes).ok()? == *expected)
    }
}

impl PasswordComparison {
    /// The fingerprint of the user's entry; `None`: there is no such user.
    pub fn fingerprint(&self) -> Option<String> {
        self.own.as_ref().map(HtpasswdEntry::fingerprint)
    }

    /// Whether this is the user's password, and the number of computed hashes.
    pub fn verify(&self, password: &Secret, memory: &mut HashMemory) -> (bool, u64) {
        let mut hashes = 0;
        if let Some(own) = &self.own {
            hashes += 1;
            if own.verify(password, memory) {
                return (true, hashes);
            }
        }
        for other in &self.others {
            hashes += 1;
            // For its time only.
            std::hint::black_box(other.verify(password, memory));
        }
        (false, hashes)
    }
}

impl HtpasswdEntry {
    fn unknown_user() -> Self {
        Self {
            hash: UNKNOWN_USER_HASH.to_owned(),
            kind: HashKind::Argon2id,
            class: HashCost::default(),
        }
    }

    fn parse(hash: &str) -> Result<Self, &'static str> {
        let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind));
        if is_bcrypt {
            let parts: bcrypt::HashParts =
                hash.parse().map_err(|_| "its bcrypt hash is malformed")?;
            if !(4..=BCRYPT_COST_MAX).contains(&parts.get_cost()) {
                return Err("the cost of its bcrypt hash must be 4 to 16");
            }
            let class = HashCost([parts.get_cost(), 0, 0, 0]);
            return Ok(Self { hash: hash.to_owned(), kind: HashKind::Bcrypt, class });
        }
        if !hash.starts_with("$argon2id$") {
            return Err("its hash must be bcrypt ($2y$, $2b$, $2a$) or argon2id ($argon2id$): \
                        htpasswd -B and jreg user add write such");
        }
        let parsed = PasswordHash::new(hash).map_err(|_| "its argon2id hash is malformed")?;
        let params =
            argon2::Params::try_from(&parsed).map_err(|_| "its argon2id hash is malformed")?;
        if parsed.hash.is_none() || parsed.salt.is_none() {
            return Err("its argon2id hash is malformed");
        }
        let is_affordable = params.m_cost() <= ARGON2_MEMORY_KIB_MAX
            && params.t_cost() <= ARGON2_PASSES_MAX
            && params.p_cost() <= ARGON2_LANES_MAX;
        if !is_affordable {
            return Err("its argon2id hash must take at most m=262144, t=16, p=16");
        }
        let class = HashCost([0, params.m_cost(), params.t_cost(), params.p_cost()]);
        Ok(Self { hash: hash.to_owned(), kind: HashKind::Argon2id, class })
    }

    /// Whether this is the password. Takes tens of milliseconds by design.
    pub fn verify(&self, password: &Secret, memory: &mut HashMemory) -> bool {
        let password = password.reveal();
        match self.kind {
            // bcrypt uses 72 bytes of a password; htpasswd truncates there, too.
            HashKind::Bcrypt => bcrypt::verify(password, &self.hash).unwrap_or(false),
            HashKind::Argon2id => memory.verify(password.as_bytes(), &self.hash).unwrap_or(false),
        }
    }

    /// Distinguishes this password from earlier and later ones, and reveals nothing else.
    pub fn fingerprint(&self) -> String {
        sha256_hex(self.hash.as_bytes()).chars().take(FINGERPRINT_CHARS).collect()
    }
}

/// Whether this is a valid user name.
fn check_name(name: &str) -> Result<(), InvalidUser> {
    let is_name = !name.is_empty()
        && name.len() <= USER_BYTES_MAX
        && name.trim() == name
        && !name.starts_with('#')
        && !name.contains(':')
        && !name.chars().any(char::is_control);
    is_name.then_some(()).ok_or(InvalidUser)
}

/// The argon2id hash of a password, with 19 MiB and two passes (OWASP's first recommendation).
/// `None`: the operating system provides no random salt.
pub fn hash_password(password: &Secret) -> Option<String> {
    let hash = Argon2::default().hash_password(password.reveal().as_bytes()).ok()?;
    Some(hash.to_string())
}

/// The text of a file with this hash for a user; everything else is unchanged.
///
/// # Errors
///
/// [`InvalidUser`].
pub fn with_user(text: &str, name: &str, hash: &str) -> Result<String, InvalidUser> {
    check_name(name)?;
    let line = format!("{name}:{hash}");
    let mut found = false;
    let mut lines: Vec<&str> = Vec::new();
    for old in text.lines() {
        if is_of(old, name) {
            found = true;
            lines.push(&line);
        } else {
            lines.push(old);
        }
    }
    if !found {
        lines.push(&line);
    }
    Ok(lines.join("\n") + "\n")
}

/// The text of a file without a user; `None` if the user is not in it.
pub fn removed_user(text: &str, name: &str) -> Option<String> {
    text.lines().any(|line| is_of(line, name)).then(|| {
        let kept = text.lines().filter(|line| !is_of(line, name));
        kept.fold(String::with_capacity(text.len()), |text, line| text + line + "\n")
    })
}

fn is_of(line: &str, name: &str) -> bool {
    line.trim().split_once(':').is_some_and(|(found, _)| found == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    /// Cheap, unlike [`hash_password`].
    fn argon2_of(password: &str) -> String {
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    fn is_password(file: &Htpasswd, name: &str, password: &str) -> bool {
        file.to_compare(name).verify(&Secret::new(password), &mut HashMemory::default()).0
    }

    #[test]
    fn both_kinds_of_hash_are_verified() {
        let text = format!("# users\nalice:{}\n\n  bob:{}\n", bcrypt_of("one"), argon2_of("two"));
        let file = Htpasswd::parse(&text).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["alice", "bob"]);
        assert!(is_password(&file, "alice", "one") && is_password(&file, "bob", "two"));
        assert!(!is_password(&file, "alice", "two") && !is_password(&file, "bob", "one"));
        assert!(!is_password(&file, "carol", "one"), "compared with alice's, and does not count");
    }

    /// Made by Apache's htpasswd 2.4.
    #[test]
    fn hashes_of_other_tools_are_accepted() {
        let text = "a:$2y$05$HhmvnqZDbOcyPZyoeG6qXeUtX8Qkzz9JsfwIVKqnnyDoMSyABmRFu";
        assert!(Htpasswd::parse(text).is_ok());
        for kind in ["$2b$", "$2a$"] {
            assert!(Htpasswd::parse(&text.replace("$2y$", kind)).is_ok());
        }
    }

    /// A wrong password is compared with one hash of each kind and cost, whichever name is given.
    #[test]
    fn an_unknown_user_costs_what_a_known_one_does() {
        let dear = bcrypt::hash_with_result("three", 5).unwrap();
        let dear = dear.format_for_version(bcrypt::Version::TwoY);
        let (cheap, other) = (bcrypt_of("one"), argon2_of("two"));
        let text = format!("alice:{cheap}\nann:{cheap}\nbob:{other}\ncarl:{dear}\n");
        let file = Htpasswd::parse(&text).unwrap();
        let (wrong, mut memory) = (Secret::new("wrong"), HashMemory::default());
        for name in ["alice", "ann", "bob", "carl", "nobody", ""] {
            let comparison = file.to_compare(name);
            assert_eq!(comparison.verify(&wrong, &mut memory), (false, 3), "{name}");
            let entries = comparison.own.iter().chain(&comparison.others);
            let mut classes: Vec<_> = entries.map(|entry| entry.class).collect();
            classes.sort();
            assert_eq!(classes, file.classes.keys().copied().collect::<Vec<_>>(), "{name}");
        }
        assert_eq!(
            file.to_compare("nobody").verify(&Secret::new("one"), &mut HashMemory::default()),
            (false, 3)
        );
        let unknown = Htpasswd::default().to_compare("carol");
        assert_eq!(unknown.verify(&Secret::new(""), &mut HashMemory::default()), (false, 1));
        assert!(
            unknown.fingerprint().is_none() && unknown.others == [HtpasswdEntry::unknown_user()]
        );
        assert!(
            HtpasswdEntry::parse(UNKNOWN_USER_HASH).is_ok(),
            "it is hashed to the end, not refused as malformed"
        );
    }

    #[test]
    fn a_wrong_password_is_compared_with_one_hash_of_each_cost() {
        let lines = (1..=CLASSES_COMPARED_MAX + 4).map(|passes| {
            let params = argon2::Params::new(8, u32::try_from(passes).unwrap(), 1, None).unwrap();
            let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
            format!("user{passes}:{}\n", argon2.hash_password(b"x").unwrap())
        });
        let file = Htpasswd::parse(&lines.collect::<String>()).unwrap();
        let (_, hashes) =
            file.to_compare("nobody").verify(&Secret::new("wrong"), &mut HashMemory::default());
        assert_eq!(hashes, CLASSES_COMPARED_MAX as u64);
    }

    #[test]
    fn one_invalid_line_rejects_the_file_and_is_named_without_its_hash() {
        let good = argon2_of("x");
        for (line, part) in [
            ("alice", "NAME:HASH"),
            (":x", "name is not allowed"),
            ("a\tb:x", "name is not allowed"),
            ("alice:$apr1$SECRET$SECRET", "must be bcrypt"),
            ("alice:{SHA}SECRET", "must be bcrypt"),
            ("alice:SECRET", "must be bcrypt"),
            ("alice:$2y$05$SECRET", "bcrypt hash is malformed"),
            (
                "alice:$2y$31$HhmvnqZDbOcyPZyoeG6qXeUtX8Qkzz9JsfwIVKqnnyDoMSyABmRFu",
                "must be 4 to 16",
            ),
            ("alice:$argon2id$SECRET", "argon2id hash is malformed"),
            ("alice:$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$SECRET", "must be bcrypt"),
            (
                "alice:$argon2id$v=19$m=4000000,t=2,p=1$bm9ib2R5bm9ib2R5$Wv5vCYdrnw0Wbn2R3cFD3ZfTn0X6bJbYQy0xP0Qy1tE",
                "at most m=262144",
            ),
        ] {
            let error = Htpasswd::parse(&format!("bob:{good}\n{line}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(part), "{line}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
        let twice = Htpasswd::parse(&format!("bob:{good}\nbob:{good}")).unwrap_err().to_string();
        assert!(twice.contains("repeated"), "{twice}");
    }

    #[test]
    fn editing_keeps_everything_else() {
        let text = "# keep me\nalice:1\n\nbob:2\n";
        assert_eq!(with_user(text, "bob", "3").unwrap(), "# keep me\nalice:1\n\nbob:3\n");
        assert_eq!(
            with_user(text, "carol", "4").unwrap(),
            "# keep me\nalice:1\n\nbob:2\ncarol:4\n"
        );
        assert_eq!(with_user("", "a", "1").unwrap(), "a:1\n");
        assert_eq!(removed_user(text, "alice").unwrap(), "# keep me\n\nbob:2\n");
        assert_eq!(removed_user(text, "carol"), None);
        for name in ["", "a:b", "#a", " a", "a\n"] {
            assert_eq!(with_user("", name, "1"), Err(InvalidUser), "{name:?}");
        }
    }

    #[test]
    fn written_files_are_parsed() {
        let hash = hash_password(&Secret::new("pass word")).unwrap();
        let file = Htpasswd::parse(&with_user("", "alice", &hash).unwrap()).unwrap();
        assert!(is_password(&file, "alice", "pass word"));
        let print = file.get("alice").unwrap().fingerprint();
        assert_eq!(print.len(), FINGERPRINT_CHARS);
        assert!(!hash.contains(&print));
        assert!(!format!("{file:?}").contains("argon2id$"));
    }
}
