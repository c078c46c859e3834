#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use proptest::prelude::*;

use super::*;

#[test]
fn text_is_written_as_text_and_the_rest_as_numbers() {
    let json = |bytes: &[u8]| serde_json::to_string(&Bytes(bytes.to_vec())).unwrap();
    assert_eq!(json(b"a b\n"), r#""a b\n""#);
    assert_eq!(json("größer".as_bytes()), "\"größer\"");
    assert_eq!(json(b""), r#""""#);
    assert_eq!(json(b"a\xff"), "[97,255]");
}

#[test]
fn what_is_neither_is_refused() {
    for wrong in ["1", "null", "[256]", "[-1]", "{}", r#"["a"]"#, "[[1]]"] {
        assert!(serde_json::from_str::<Bytes>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn for_people_what_is_not_text_is_replaced() {
    assert_eq!(Bytes(b"a\xffb".to_vec()).text(), "a\u{fffd}b");
}

proptest! {
    #[test]
    fn they_come_back_as_they_were(bytes: Vec<u8>, text: String) {
        for bytes in [bytes, text.into_bytes()] {
            let json = serde_json::to_string(&Bytes(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().0, bytes);
        }
    }
}
