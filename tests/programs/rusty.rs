//! Rust: threads with channels, collections with a random seed, a panic that is caught afterwards.
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn main() {
    let go = std::env::var("CKPT_TEST_GO").expect("CKPT_TEST_GO");
    let map: HashMap<u64, String> = (0..10_000).map(|i| (i, format!("value {i}"))).collect();
    let (sender, receiver) = mpsc::channel::<u64>();
    let summer = thread::Builder::new().name("summer".into());
    let sum = summer.spawn(move || receiver.iter().sum::<u64>()).expect("a thread");
    println!("ready");
    let mut sent = 0;
    while !Path::new(&go).exists() && sent < 100_000 {
        sender.send(1).expect("the thread listens");
        sent += 1;
        thread::sleep(Duration::from_millis(2));
    }
    drop(sender);
    assert_eq!(sum.join().expect("no panic"), sent);
    assert!((0..10_000).all(|i| map[&i] == format!("value {i}")));
    let caught = std::panic::catch_unwind(|| panic!("on purpose"));
    println!("caught: {}", caught.is_err());
}
