//! JSONP: polling bodies as scripts and forms, for clients that can send no other requests.
//!
//! | | |
//! |---|---|
//! | a GET is answered with | `___eio[5]("4hello");` |
//! | a POST brings | `d=4hello`, a form |

use bytes::Bytes;

/// Wraps a body in a call of the client's callback function.
///
/// Only the digits of `index` are used, so that nothing else from a query becomes script.
pub(crate) fn script(index: &str, body: &[u8]) -> Vec<u8> {
    let digits: String = index.chars().filter(char::is_ascii_digit).collect();
    // A string always serializes to JSON.
    let json = serde_json::to_string(&String::from_utf8_lossy(body)).unwrap_or_default();
    // JSON allows these two in a string. In a script's string they are line ends.
    let json = json.replace('\u{2028}', "\\u2028");
    let json = json.replace('\u{2029}', "\\u2029");
    format!("___eio[{digits}]({json});").into_bytes()
}

/// Returns the body in a form, or `None` if the form has no field `d`.
///
/// A form changes line ends. Clients therefore write a line end as `\n`, and `\n` as `\\n`.
pub(crate) fn form(form: &[u8]) -> Option<Bytes> {
    let (_, value) = form_urlencoded::parse(form).find(|(name, _)| name == "d")?;
    let mut body = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(br"\\n") {
            body.extend_from_slice(br"\n");
            rest = after;
        } else if let Some(after) = rest.strip_prefix(br"\n") {
            body.push(b'\n');
            rest = after;
        } else {
            body.push(*byte);
            rest = after;
        }
    }
    Some(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_becomes_a_script() {
        let body = "4\"a\u{2028}\u{2029}\n</script>".as_bytes();
        let script = script("5;alert(1)", body);
        assert_eq!(
            String::from_utf8_lossy(&script),
            r#"___eio[51]("4\"a\u2028\u2029\n</script>");"#
        );
    }

    #[test]
    fn a_form_becomes_a_body() {
        assert_eq!(form(b"d=4a%20b+c&x=1").as_deref(), Some(&b"4a b c"[..]));
        assert_eq!(form(br"d=4a\nb").as_deref(), Some(&b"4a\nb"[..]));
        assert_eq!(form(br"d=4a\\nb").as_deref(), Some(&br"4a\nb"[..]));
        assert_eq!(form(br"d=4a\\\nb\x").as_deref(), Some(&br"4a\\nb\x"[..]));
        assert_eq!(form(b"e=4"), None);
    }
}
