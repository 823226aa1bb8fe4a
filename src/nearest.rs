//! The known name that is most like an unknown one: "did you mean `/chat`?"
//!
//! The unknown names come from clients, so the work has limits: [`MAX_LEN`] and [`MAX_NAMES`].

/// The longest name that is compared, in bytes. A longer one has no nearest name.
const MAX_LEN: usize = 64;

/// The most names that one is compared with.
const MAX_NAMES: usize = 256;

/// Returns the name that differs least from `unknown`: by at most one byte in three, and at most
/// three. The case of ASCII letters does not count. Of several names the first in the alphabet is
/// returned.
pub(crate) fn nearest<'a>(unknown: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if unknown.len() > MAX_LEN {
        return None;
    }
    let most = (unknown.len() / 3).clamp(1, 3);
    names
        .take(MAX_NAMES)
        .filter(|name| name.len() <= MAX_LEN && name.len().abs_diff(unknown.len()) <= most)
        .map(|name| (distance(unknown.as_bytes(), name.as_bytes()), name))
        // A name that has nothing in common is not near, however short it is.
        .filter(|(distance, name)| *distance <= most && *distance < name.len().min(unknown.len()))
        .min()
        .map(|(_, name)| name)
}

/// Returns the beginning of a client's name, for the log.
pub(crate) fn shortened(name: &str) -> &str {
    let mut end = name.len().min(MAX_LEN);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Returns how many bytes have to be inserted, removed, replaced or exchanged with their neighbour.
/// Both texts have at most [`MAX_LEN`] bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = [0; MAX_LEN + 1];
    let mut row = [0; MAX_LEN + 1];
    let mut next = [0; MAX_LEN + 1];
    for (at, cell) in row.iter_mut().enumerate() {
        *cell = at;
    }
    for i in 1..=a.len() {
        next[0] = i;
        for j in 1..=b.len() {
            let is_same = a[i - 1].eq_ignore_ascii_case(&b[j - 1]);
            let replaced = row[j - 1] + usize::from(!is_same);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            let is_exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if is_exchanged {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        (before, row, next) = (row, next, before);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(unknown: &str, names: &[&'a str]) -> Option<&'a str> {
        nearest(unknown, names.iter().copied())
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("chat", "", 4),
            ("", "chat", 4),
            ("chat", "chat", 0),
            ("Chat", "chat", 0),
            ("chat", "chats", 1),
            ("chat", "cat", 1),
            ("chat", "that", 1),
            ("chta", "chat", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_name_with_a_mistake_has_a_nearest_name() {
        let names = ["/", "/admin", "/chat"];
        for unknown in ["/chta", "/Chat", "/chat/", "chat", "/chats", "/cht"] {
            assert_eq!(of(unknown, &names), Some("/chat"), "{unknown}");
        }
        assert_eq!(of("/amdin", &names), Some("/admin"));
        assert_eq!(of("sya", &["say", "saw"]), Some("say"));
    }

    #[test]
    fn another_name_has_none() {
        let names = ["/", "/admin", "/chat"];
        for unknown in ["", "/", "/a", "/c", "/orders", "/chatroom"] {
            assert_eq!(of(unknown, &names[1..]), None, "{unknown}");
        }
        assert_eq!(of("/a", &names), None);
        assert_eq!(of("x", &["y"]), None);
        assert_eq!(of("/chat", &[]), None);
    }

    #[test]
    fn of_equally_near_names_it_is_the_first_in_the_alphabet() {
        assert_eq!(of("/cat", &["/hat", "/bat"]), Some("/bat"));
    }

    #[test]
    fn the_work_is_bounded() {
        let long = "x".repeat(MAX_LEN + 1);
        assert_eq!(of(&long, &[&long]), None);
        assert_eq!(of(&long[1..], &[&long]), None);
        assert_eq!(of(&long[1..], &[&long[1..]]), Some(&long[1..]));
        let many = std::iter::repeat_n("other", MAX_NAMES).chain(["chat"]);
        assert_eq!(nearest("chta", many), None);
    }

    #[test]
    fn a_name_is_shortened_between_characters() {
        assert_eq!(shortened("chat"), "chat");
        let name = format!("{}ä", "x".repeat(MAX_LEN - 1));
        assert_eq!(shortened(&name), &name[..MAX_LEN - 1]);
    }
}
