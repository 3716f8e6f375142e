//! [`Hasher`]: an incremental digest whose state can be saved and resumed.
//!
//! An upload may be continued by another process, so the state between two chunks is plain data
//! ([`HashState`]) that is kept with the upload session. A damaged state is an error,
//! never a panic and never a wrong digest: it has a checksum.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

use crate::digest::{decode_hex, encode_hex};
use crate::{Algorithm, Digest};

/// Maximum bytes of a resumable hash: far beyond any blob, and far below the
/// overflow of the counters.
pub const HASHED_BYTES_MAX: u64 = 1 << 60;

const CHECKSUM_BYTES: usize = 8;

/// A digest being computed.
#[derive(Clone)]
pub struct Hasher {
    state: AlgorithmState,
    length: u64,
}

#[derive(Clone)]
enum AlgorithmState {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// The state of a [`Hasher`] between two updates, as plain data.
///
/// Written by [`Hasher::state`] and read by [`Hasher::resume`]; a test pins the format, because
/// upload sessions outlive the process that wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashState {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// How many bytes were hashed.
    pub length: u64,
    /// The chaining value, the block counter, the bytes of the unfinished block, and a checksum of
    /// all this, in hexadecimal.
    pub state: String,
}

/// Error of a hash state that cannot be resumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {algorithm} state after {length} bytes: {reason}")]
pub struct InvalidHashState {
    algorithm: Algorithm,
    length: u64,
    reason: &'static str,
}

impl Hasher {
    /// A hasher of no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => AlgorithmState::Sha256(Sha256::new()),
            Algorithm::Sha512 => AlgorithmState::Sha512(Sha512::new()),
        };
        Self { state, length: 0 }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.state {
            AlgorithmState::Sha256(_) => Algorithm::Sha256,
            AlgorithmState::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            AlgorithmState::Sha256(sha256) => sha256.update(bytes),
            AlgorithmState::Sha512(sha512) => sha512.update(bytes),
        }
        self.length += bytes.len() as u64;
    }

    /// How many bytes were hashed, those before a resume included.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was hashed yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The digest of everything hashed.
    pub fn finish(self) -> Digest {
        match self.state {
            AlgorithmState::Sha256(sha256) => {
                Digest::from_raw(Algorithm::Sha256, &sha256.finalize())
            }
            AlgorithmState::Sha512(sha512) => {
                Digest::from_raw(Algorithm::Sha512, &sha512.finalize())
            }
        }
    }

    /// The state, to be resumed by any process.
    pub fn state(&self) -> HashState {
        let (algorithm, length) = (self.algorithm(), self.length);
        let mut bytes = match &self.state {
            AlgorithmState::Sha256(sha256) => sha256.serialize().to_vec(),
            AlgorithmState::Sha512(sha512) => sha512.serialize().to_vec(),
        };
        bytes.extend_from_slice(&checksum(algorithm, length, &bytes));
        HashState { algorithm, length, state: encode_hex(&bytes) }
    }

    /// The hasher that wrote `state`.
    ///
    /// # Errors
    ///
    /// The state is not one that [`Hasher::state`] writes: damaged, cut, or longer than
    /// [`HASHED_BYTES_MAX`].
    pub fn resume(state: &HashState) -> Result<Self, InvalidHashState> {
        let HashState { algorithm, length, .. } = *state;
        let invalid = |reason| InvalidHashState { algorithm, length, reason };
        if length > HASHED_BYTES_MAX {
            return Err(invalid("more bytes than can be hashed"));
        }
        let bytes = decode_hex(&state.state).ok_or(invalid("must be lowercase hexadecimal"))?;
        let (bytes, sum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(invalid("too short"))?;
        if checksum(algorithm, length, bytes) != *sum {
            return Err(invalid("its checksum does not match"));
        }
        if !counts(algorithm, length, bytes) {
            return Err(invalid("not the state of as many bytes"));
        }
        let resumed = match algorithm {
            Algorithm::Sha256 => deserialize(bytes).map(AlgorithmState::Sha256),
            Algorithm::Sha512 => deserialize(bytes).map(AlgorithmState::Sha512),
        };
        Ok(Self { state: resumed.ok_or(invalid("not a state of this algorithm"))?, length })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.algorithm();
        f.debug_struct("Hasher").field("algorithm", &algorithm).field("len", &self.length).finish()
    }
}

fn deserialize<H: SerializableState>(bytes: &[u8]) -> Option<H> {
    let serialized = SerializedState::<H>::try_from(bytes).ok()?;
    H::deserialize(&serialized).ok()
}

/// Whether the counters inside the state are those of `length` bytes. They follow the chaining
/// value: finished blocks in little endian, then one byte for what is in the unfinished one.
fn counts(algorithm: Algorithm, length: u64, state: &[u8]) -> bool {
    let (chaining_bytes, counter_bytes, block_bytes) = match algorithm {
        Algorithm::Sha256 => (32, 8, 64),
        Algorithm::Sha512 => (64, 16, 128),
    };
    let expected = u128::from(length / block_bytes).to_le_bytes();
    let counters = state.get(chaining_bytes..=chaining_bytes + counter_bytes);
    let Some((unfinished, blocks)) = counters.and_then(<[u8]>::split_last) else { return false };
    u64::from(*unfinished) == length % block_bytes && expected.starts_with(blocks)
}

fn checksum(algorithm: Algorithm, length: u64, state: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = Sha256::new();
    sum.update(algorithm.as_str());
    sum.update(length.to_be_bytes());
    sum.update(state);
    let sum: [u8; 32] = sum.finalize().into();
    *sum.first_chunk().expect("a SHA-256 digest is longer than the checksum")
}
