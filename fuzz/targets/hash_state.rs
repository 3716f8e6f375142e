//! A hash state is refused, or is exactly what the hasher would write.
//!
//! Input: a state in JSON; or one byte for the algorithm, eight for the length, and the rest for
//! the state, to which the right checksum is added.
#![no_main]

use jreg_oci::{Algorithm, Digest, HashState, Hasher};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = serde_json::from_slice(bytes) {
        check(&state);
    }
    if let Some((algorithm, rest)) = bytes.split_first()
        && let Some((length, state)) = rest.split_first_chunk()
    {
        check(&sign(
            Algorithm::ALL[usize::from(algorithm & 1)],
            u64::from_le_bytes(*length),
            state,
        ));
    }
});

fn check(state: &HashState) {
    let Ok(mut hasher) = Hasher::resume(state) else { return };
    assert_eq!(hasher.state(), *state);
    assert_eq!((hasher.algorithm(), hasher.len()), (state.algorithm, state.length));
    hasher.update(&[0; 300]);
    assert_eq!(hasher.len(), state.length + 300);
    assert_eq!(hasher.finish().algorithm(), state.algorithm);
}

fn sign(algorithm: Algorithm, length: u64, state: &[u8]) -> HashState {
    let signed = [algorithm.as_str().as_bytes(), &length.to_be_bytes(), state].concat();
    let checksum = Digest::of(Algorithm::Sha256, &signed).hex();
    let mut hex: String = state.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.extend(checksum.chars().take(16));
    HashState { algorithm, length, state: hex }
}
