//! Trials of hosts: connecting, logging in, and asking what is possible there, a few at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex};

use ckpt_transfer::hosts::{Host, Hosts, LOCAL};
use ckpt_transfer::ssh::{Prompter, Secrets};
use serde_json::{Value, json};

use super::effect::Asker;
use super::model::HostRow;
use super::update::Msg;
use super::work::{lock, spawn};
use crate::failure;
use crate::hosts::{try_here, try_host};

/// Trials at the same time.
const AT_ONCE: usize = 4;

/// Those who wait for an answer, by their hosts.
pub type Asking = Arc<Mutex<HashMap<String, mpsc::Sender<Option<String>>>>>;

/// Where jobs can move to: home, and the hosts of the user's files.
pub fn rows() -> anyhow::Result<Vec<HostRow>> {
    let hosts = Hosts::load()?;
    let row = |host: &Host| HostRow::new(&host.name, format!("{}@{}:{}", host.user, host.address, host.port));
    Ok(std::iter::once(HostRow::new(LOCAL, "this machine")).chain(hosts.all().map(row)).collect())
}

/// Tries these hosts.
pub fn start(names: Vec<String>, sender: &SyncSender<Msg>, asking: &Asking) -> anyhow::Result<()> {
    let count = names.len().min(AT_ONCE);
    let names = Arc::new(Mutex::new(VecDeque::from(names)));
    for _ in 0..count {
        let (names, sender, asking) = (Arc::clone(&names), sender.clone(), Arc::clone(asking));
        spawn("trial", move || {
            let next = || lock(&names).pop_front();
            while let Some(name) = next() {
                let found = one(&name, &sender, &asking)
                    .unwrap_or_else(|error| json!({ "ok": false, "error": failure::line(&error) }));
                if sender.send(Msg::Tried(name, found)).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}

fn one(name: &str, sender: &SyncSender<Msg>, asking: &Asking) -> anyhow::Result<Value> {
    let mut tell = |title: &str, line: &str| {
        // The menu may have gone: nobody looks any more.
        let _ = sender.send(Msg::Fact(name.to_owned(), title.to_owned(), line.to_owned()));
        Ok(())
    };
    if name == LOCAL {
        return try_here(&mut tell);
    }
    let hosts = Hosts::load()?;
    let host = hosts.find(name)?;
    let mut prompter = MenuPrompter { host: name, sender, asking };
    try_host(&host, &hosts, &mut Secrets::new(), &mut prompter, &mut tell)
}

/// Asks in a dialog of the menu.
struct MenuPrompter<'a> {
    host: &'a str,
    sender: &'a SyncSender<Msg>,
    asking: &'a Asking,
}

impl Prompter for MenuPrompter<'_> {
    fn ask(&mut self, question: &str, echo: bool) -> Option<String> {
        let (answer, answered) = mpsc::channel();
        lock(self.asking).insert(self.host.to_owned(), answer);
        self.sender.send(Msg::Ask(Asker::Trial(self.host.to_owned()), question.to_owned(), echo)).ok()?;
        answered.recv().ok().flatten()
    }
}
