//! The hosts: what trials find out about them, and changes of the hosts file.

use serde_json::Value;

use super::commands::{ask_options, begin, refuses};
use super::moves::where_is;
use crate::menu::effect::{Effect, Reason};
use crate::menu::model::{Field, HostRow, HostState, Layer, Model};
use crate::text;

const ADD: [&str; 2] = ["hosts", "add"];

/// What an entry can say, as the dialog tells it.
const OPTIONS: &str = "--key FILE, --jump HOST, --directory DIRECTORY, --compression none|lz4|zstd, --sessions N, --rate 50MB, --memory 8GiB, --accept-new";

/// The hosts file was read: what was found out about those that are as they were still holds.
pub fn on_hosts(model: &mut Model, result: Result<Vec<HostRow>, String>) -> Vec<Effect> {
    match result {
        Ok(rows) => {
            let old = model.hosts.rows.clone().unwrap_or_default();
            let is_same = |one: &HostRow, row: &HostRow| one.name == row.name && one.address == row.address;
            let keep = |row: HostRow| old.iter().find(|known| is_same(known, &row)).cloned().unwrap_or(row);
            model.hosts.replace(rows.into_iter().map(keep).collect());
            if let Some(Layer::Choose { job }) = model.layers.last() {
                // Where it is already is no choice.
                let here = where_is(model, job).cloned();
                let is_here = |row: &&HostRow| Some(&row.name) == here.as_ref();
                if model.hosts.chosen().is_some_and(|row| is_here(&row)) {
                    let other = model.hosts.shown().iter().position(|row| !is_here(row));
                    model.hosts.selected = other.unwrap_or(model.hosts.selected);
                }
            }
        }
        Err(error) => {
            model.hosts.rows.get_or_insert_default();
            model.tell(error, true);
        }
    }
    Vec::new()
}

/// Tries the chosen host.
pub fn test(model: &mut Model) -> Vec<Effect> {
    let chosen = model.hosts.chosen().map(|row| row.name.clone());
    // A login can note a key, and what is found out there may need a copy of this program there.
    if refuses(model, &format!("ckptctl hosts test {}", text::quoted(chosen.as_deref().unwrap_or_default()))) {
        return Vec::new();
    }
    try_these(model, chosen.into_iter().collect())
}

/// Tries all that are shown.
pub fn test_all(model: &mut Model) -> Vec<Effect> {
    if refuses(model, "ckptctl hosts test") {
        return Vec::new();
    }
    let shown = model.hosts.shown().iter().map(|row| row.name.clone()).collect();
    try_these(model, shown)
}

fn try_these(model: &mut Model, names: Vec<String>) -> Vec<Effect> {
    let mut begun = Vec::new();
    for name in names {
        if let Some(row) = row(model, &name).filter(|row| row.state != HostState::Trying) {
            row.state = HostState::Trying;
            row.facts.clear();
            begun.push(name);
        }
    }
    if begun.is_empty() { Vec::new() } else { vec![Effect::Try(begun)] }
}

fn row<'a>(model: &'a mut Model, name: &str) -> Option<&'a mut HostRow> {
    model.hosts.rows.iter_mut().flatten().find(|row| row.name == name)
}

/// A trial has found something.
pub fn on_fact(model: &mut Model, host: &str, fact: (String, String)) -> Vec<Effect> {
    if let Some(row) = row(model, host) {
        row.facts.push(fact);
    }
    Vec::new()
}

/// A trial is over.
pub fn on_tried(model: &mut Model, host: &str, found: &Value) -> Vec<Effect> {
    let works = found.get("ok").and_then(Value::as_bool).unwrap_or_default();
    if let Some(row) = row(model, host) {
        let of = |path: &str| found.pointer(path);
        row.state = if works { HostState::Ready } else { HostState::Failed };
        row.login = of("/login/by").and_then(Value::as_str).map(str::to_owned);
        row.load = of("/machine/load").and_then(Value::as_f64);
        row.memory = of("/memory").and_then(Value::as_u64);
    }
    if let Some(error) = found.get("error").and_then(Value::as_str) {
        model.tell(format!("{host}: {error}"), true);
    }
    Vec::new()
}

/// Asks for a new host.
pub fn add(model: &mut Model) -> Vec<Effect> {
    if refuses(model, "ckptctl hosts add NAME ADDRESS") {
        return Vec::new();
    }
    let title = format!("A new host: NAME [USER@]ADDRESS[:PORT], and if needed {OPTIONS}");
    ask_options(model, &title, &ADD, "", Reason::Hosts)
}

/// The name of the host that was asked to be added with this, if that was it.
pub fn added(field: &Field, typed: &str) -> Option<String> {
    let Field::Verb { words, .. } = field else { return None };
    let is_new = words.iter().map(String::as_str).eq(ADD);
    typed.split_whitespace().next().filter(|_| is_new).map(str::to_owned)
}

/// Asks for what is to be changed of the chosen host.
pub fn edit(model: &mut Model) -> Vec<Effect> {
    let Some((name, address)) = changeable(model) else { return Vec::new() };
    if refuses(model, &format!("ckptctl hosts edit {} --address {}", text::quoted(&name), text::quoted(&address))) {
        return Vec::new();
    }
    let title = format!("Change {name}: --address [USER@]ADDRESS[:PORT], {OPTIONS}, --unset SETTING");
    ask_options(model, &title, &["hosts", "edit", &name], &format!("--address {address}"), Reason::Hosts)
}

/// Asks whether the chosen host is to be forgotten.
pub fn remove(model: &mut Model) -> Vec<Effect> {
    let Some((name, _)) = changeable(model) else { return Vec::new() };
    let words = ["hosts", "remove", &name].map(str::to_owned).to_vec();
    let effect = Effect::Verb { words, reason: Reason::Hosts, directory: None, environment: Vec::new() };
    if model.read_only {
        return begin(model, effect);
    }
    let detail = "Its entry in the hosts file is deleted. Jobs that are there stay there.".to_owned();
    let question = format!("Remove the host {name}?");
    model.layers.push(Layer::Confirm { question, detail, is_yes: false, effect });
    Vec::new()
}

/// The chosen host's name and address, if it is not this machine.
fn changeable(model: &mut Model) -> Option<(String, String)> {
    let (name, address) = model.hosts.chosen().map(|row| (row.name.clone(), row.address.clone()))?;
    if name == ckpt_transfer::hosts::LOCAL {
        model.tell("this machine is always there; a adds another one", false);
        return None;
    }
    Some((name, address))
}
