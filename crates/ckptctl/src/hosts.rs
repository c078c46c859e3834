//! `hosts`: the machines that programs can be moved to.

mod args;
mod check;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::hosts::{Change, Destination, Hosts};
use serde_json::json;

pub use self::args::HostsArgs;
use self::args::{Act, AddArgs, EditArgs, HostOptions};
pub use self::check::{self_check, try_here, try_host};
use crate::failure::Failure;
use crate::{output, text};

/// Does what was asked about hosts.
pub fn hosts(args: &HostsArgs) -> anyhow::Result<i32> {
    match &args.act {
        Act::List(args) => list(args.json),
        Act::Add(args) => add(args),
        Act::Edit(args) => edit(args),
        Act::Remove(args) => remove(&args.name),
        Act::Test(args) => check::test(args.name.as_deref(), args.json),
    }
}

fn list(json: bool) -> anyhow::Result<i32> {
    let hosts = Hosts::load()?;
    if json {
        output::print_json(&json!({ "hosts": hosts.all().collect::<Vec<_>>() }))?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = hosts
        .all()
        .map(|host| {
            let address =
                if host.port == 22 { host.address.clone() } else { format!("{}:{}", host.address, host.port) };
            let way = host.jump.clone().or_else(|| host.proxy_command.as_ref().map(|_| "a command".to_owned()));
            let directory = host.directory.as_deref().map(text::path);
            [
                host.name.clone(),
                address,
                host.user.clone(),
                way.unwrap_or_default(),
                directory.unwrap_or_default(),
                host.source.to_string(),
            ]
            .map(|cell| text::plain(&cell))
            .to_vec()
        })
        .collect();
    if rows.is_empty() {
        let file = text::path(&hosts.place().hosts_file);
        output::print(&format!(
            "There are no hosts in {file} or ~/.ssh/config. Add one: ckptctl hosts add NAME [USER@]ADDRESS\n"
        ))?;
    } else {
        output::print(&text::table(&["NAME", "ADDRESS", "USER", "THROUGH", "DIRECTORY", "FROM"], &[], &rows))?;
    }
    Ok(0)
}

fn add(args: &AddArgs) -> anyhow::Result<i32> {
    let mut hosts = Hosts::load()?;
    let mut change = Change::default();
    destination(&args.destination, &mut change)?;
    options(&args.options, &mut change);
    hosts.add(&args.name, &change)?;
    output::print(&format!("{} is added. Try it: ckptctl hosts test {}\n", args.name, args.name))?;
    Ok(0)
}

fn edit(args: &EditArgs) -> anyhow::Result<i32> {
    let mut hosts = Hosts::load()?;
    let mut change = Change::default();
    if let Some(address) = &args.address {
        destination(address, &mut change)?;
    }
    options(&args.options, &mut change);
    for key in &args.unset {
        change.unset(key.replace('-', "_"));
    }
    if change.is_empty() {
        let message = "nothing to change: name an option, as in `ckptctl hosts edit NAME --directory /scratch`";
        return Err(Failure::new(Class::Usage, message).into());
    }
    hosts.edit(&args.name, &change)?;
    output::print(&format!("{} is changed.\n", args.name))?;
    Ok(0)
}

fn remove(name: &str) -> anyhow::Result<i32> {
    let mut hosts = Hosts::load()?;
    hosts.remove(name)?;
    output::print(&format!("{} is removed.\n", text::plain(name)))?;
    Ok(0)
}

fn destination(given: &str, change: &mut Change) -> anyhow::Result<()> {
    let destination = Destination::parse(given).map_err(|what| Failure::new(Class::Usage, what))?;
    change.text("address", destination.address);
    if let Some(user) = destination.user {
        change.text("user", user);
    }
    if let Some(port) = destination.port {
        change.number("port", port.into());
    }
    Ok(())
}

fn options(options: &HostOptions, change: &mut Change) {
    match options.keys.as_slice() {
        [] => {}
        [key] => change.text("key", key),
        keys => change.list("keys", keys.to_vec()),
    }
    let texts = [
        ("jump", options.jump.as_ref()),
        ("directory", options.directory.as_ref()),
        ("compression", options.compression.as_ref()),
        ("limits.rate", options.rate.as_ref()),
        ("limits.memory", options.memory.as_ref()),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            change.text(key, value);
        }
    }
    if let Some(sessions) = options.sessions {
        change.number("sessions", sessions);
    }
    if options.accept_new {
        change.text("host_key", "accept-new");
    }
}

/// All hosts, or the one that was named.
fn chosen(hosts: &Hosts, name: Option<&str>) -> anyhow::Result<Vec<ckpt_transfer::hosts::Host>> {
    match name {
        Some(name) => Ok(vec![hosts.find(name)?]),
        // Found again by name: that is when commands of `Match exec` are run.
        None => hosts.all().map(|host| hosts.find(&host.name).context("while all hosts are tested")).collect(),
    }
}
