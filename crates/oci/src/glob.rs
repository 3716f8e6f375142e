//! [`glob_matches`]: the wildcards of patterns.

/// Whether `pattern` matches all of `text`: `*` stands for any bytes, none included, `?` for exactly
/// one.
///
/// Takes at most as many steps as the product of both lengths, whatever the pattern.
pub(crate) fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and up to where it has been taken to reach. An earlier star needs
    // no second try: what the later one skips, it could have skipped as well.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || Some(byte) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    p = at + 1;
                    t = reach + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}
