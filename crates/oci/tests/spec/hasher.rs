//! Hashing in pieces, with the state kept elsewhere in between.

use jreg_oci::{Algorithm, Digest, HASHED_BYTES_MAX, HashState, Hasher};
use proptest::prelude::*;

/// What another process would continue with.
fn stored(hasher: &Hasher) -> Hasher {
    let json = serde_json::to_string(&hasher.state()).unwrap();
    Hasher::resume(&serde_json::from_str(&json).unwrap()).unwrap()
}

#[test]
fn a_hash_is_resumed_at_every_point_of_some_blocks() {
    let content: Vec<u8> = (0..=255).cycle().take(400).collect();
    for algorithm in Algorithm::ALL {
        for split in 0..=content.len() {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&content[..split]);
            let mut hasher = stored(&hasher);
            assert_eq!((hasher.algorithm(), hasher.len()), (algorithm, split as u64));
            hasher.update(&content[split..]);
            assert_eq!(hasher.len(), 400);
            assert_eq!(hasher.finish(), Digest::of(algorithm, &content), "split at {split}");
        }
    }
}

#[test]
fn a_new_hasher_is_empty() {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    assert!(hasher.is_empty());
    hasher.update(b"x");
    assert!(!hasher.is_empty());
    assert_eq!(format!("{hasher:?}"), "Hasher { algorithm: Sha256, len: 1 }");
}

/// States are kept with sessions, which outlive the process and its version of the hash library.
#[test]
fn the_form_of_a_state_never_changes() {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(b"abc");
    // The initial value, because no block is finished; none; three bytes, these, and room.
    let chaining = "67e6096a85ae67bb72f36e3c3af54fa57f520e518c68059babd9831f19cde05b";
    let (blocks, unfinished, room) = ("0000000000000000", "03616263", "0".repeat(120));
    let state = format!("{chaining}{blocks}{unfinished}{room}510fe8aa4c9c2617");
    let expected = HashState { algorithm: Algorithm::Sha256, length: 3, state };
    assert_eq!(hasher.state(), expected);

    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&[b'a'; 130]);
    let chaining = "041bc1556e7cbf03dc5f28457f75480dc02690fc9b6846edf5804c42a1011728\
                    eeafe6ef8b7331ca48e2414e8dfef530f45a89747cd57993b0b8bac1eb841e4b";
    let (blocks, unfinished) = ("01000000000000000000000000000000", "026161");
    let state = format!("{chaining}{blocks}{unfinished}{}9bfcbf36400a730f", "0".repeat(250));
    let expected = HashState { algorithm: Algorithm::Sha512, length: 130, state };
    assert_eq!(hasher.state(), expected);
}

#[test]
fn a_state_is_plain_json() {
    let state = Hasher::new(Algorithm::Sha512).state();
    let json = serde_json::json!({"algorithm": "sha512", "length": 0, "state": state.state});
    assert_eq!(serde_json::to_value(&state).unwrap(), json);
}

#[test]
fn a_state_with_any_character_changed_is_refused() {
    for algorithm in Algorithm::ALL {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&[7; 200]);
        let state = hasher.state();
        for index in 0..state.state.len() {
            let mut text = state.state.clone().into_bytes();
            text[index] = if text[index] == b'0' { b'1' } else { b'0' };
            let damaged = HashState { state: String::from_utf8(text).unwrap(), ..state.clone() };
            assert!(Hasher::resume(&damaged).is_err(), "{algorithm}: character {index}");
        }
    }
}

#[test]
fn a_state_of_something_else_is_refused() {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&[7; 200]);
    let state = hasher.state();
    let with_text = |text: &str| HashState { state: text.to_owned(), ..state.clone() };
    let refused = [
        (HashState { length: 199, ..state.clone() }, "another length"),
        (HashState { length: HASHED_BYTES_MAX + 1, ..state.clone() }, "too long"),
        (HashState { length: u64::MAX, ..state.clone() }, "far too long"),
        (HashState { algorithm: Algorithm::Sha512, ..state.clone() }, "another algorithm"),
        (with_text(""), "empty"),
        (with_text(&state.state[2..]), "cut in front"),
        (with_text(&state.state[..state.state.len() - 2]), "cut behind"),
        (with_text(&state.state[1..]), "half a byte missing"),
        (with_text(&state.state.to_uppercase()), "upper case"),
        (with_text(&"00".repeat(113)), "zeros"),
        (with_text("é"), "not hexadecimal"),
    ];
    for (damaged, why) in refused {
        let error = Hasher::resume(&damaged).unwrap_err().to_string();
        assert!(error.starts_with("invalid sha"), "{why}: {error}");
    }
    assert!(Hasher::resume(&state).is_ok());
}

/// Even a state whose checksum is right, which only jreg makes, must not break the counters.
#[test]
fn a_forged_state_is_refused_if_its_counters_are_wrong() {
    for algorithm in Algorithm::ALL {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&[7; 300]);
        let state = hasher.state();
        let resigned = resign(&state);
        assert_eq!(resigned, state, "the forger knows the checksum");
        for length in [0, 44, 299, 301, 300 + 128, 1 << 59] {
            let forged = resign(&HashState { length, ..state.clone() });
            let error = Hasher::resume(&forged).unwrap_err().to_string();
            assert!(error.ends_with("not the state of as many bytes"), "{error}");
        }
    }
}

/// Puts the right checksum on a state.
fn resign(state: &HashState) -> HashState {
    let bytes: Vec<u8> = (0..state.state.len() / 2)
        .map(|i| u8::from_str_radix(&state.state[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let signed = &bytes[..bytes.len() - 8];
    let mut content = state.algorithm.as_str().as_bytes().to_vec();
    content.extend_from_slice(&state.length.to_be_bytes());
    content.extend_from_slice(signed);
    let checksum = Digest::of(Algorithm::Sha256, &content).hex();
    let kept = &state.state[..state.state.len() - 16];
    HashState { state: format!("{kept}{}", &checksum[..16]), ..state.clone() }
}

proptest! {
    #[test]
    fn any_pieces_come_to_the_same_digest(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..8),
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
    ) {
        let mut hasher = Hasher::new(algorithm);
        for piece in &pieces {
            hasher.update(piece);
            hasher = stored(&hasher);
        }
        let whole = pieces.concat();
        prop_assert_eq!(hasher.len(), whole.len() as u64);
        prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &whole));
    }

    #[test]
    fn any_state_is_resumed_or_refused(length: u64, text in "[0-9a-f]{0,500}|\\PC*") {
        for algorithm in Algorithm::ALL {
            let state = HashState { algorithm, length, state: text.clone() };
            prop_assert!(Hasher::resume(&state).is_err());
        }
    }
}
