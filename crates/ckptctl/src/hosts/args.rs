//! The command line of `hosts`.

use clap::{Args, Subcommand};

/// What to do about hosts.
#[derive(Debug, Args)]
pub struct HostsArgs {
    /// What to do
    #[command(subcommand)]
    pub act: Act,
}

impl HostsArgs {
    /// Whether the user asked for JSON.
    pub fn prints_json(&self) -> bool {
        match &self.act {
            Act::List(args) => args.json,
            Act::Test(args) => args.json,
            Act::Add(_) | Act::Edit(_) | Act::Remove(_) => false,
        }
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Act {
    /// List all hosts, with where each is written
    #[command(after_long_help = "\
Examples:
  ckptctl hosts list
  ckptctl hosts list --json")]
    List(ListArgs),
    /// Add a host to the hosts file
    #[command(after_long_help = "\
Examples:
  ckptctl hosts add nodeb me@nodeb.example.org
  ckptctl hosts add gpu 10.0.0.7:2222 --jump nodeb --directory /scratch/me
  ckptctl hosts add six '[fd00::7]:2222' --key ~/.ssh/cluster --sessions 4
  ckptctl hosts add lab me@lab --accept-new --rate 50MB --memory 8GiB")]
    Add(AddArgs),
    /// Change a host in the hosts file; for one of ~/.ssh/config, add what differs
    #[command(after_long_help = "\
Examples:
  ckptctl hosts edit gpu --compression zstd --unset jump
  ckptctl hosts edit gpu --address me@10.0.0.8")]
    Edit(EditArgs),
    /// Remove a host from the hosts file
    #[command(after_long_help = "\
Example:
  ckptctl hosts remove gpu")]
    Remove(RemoveArgs),
    /// Connect, log in, and tell what is possible there
    #[command(after_long_help = "\
Examples:
  ckptctl hosts test nodeb
  ckptctl hosts test                all of them
  ckptctl hosts test nodeb --json")]
    Test(TestArgs),
}

/// How to list hosts.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The host to add.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What it is to be called
    pub name: String,
    /// Where it is: a host name, an IP address (in brackets if it is IPv6 and a port follows) or an alias of ~/.ssh/config
    #[arg(value_name = "[USER@]ADDRESS[:PORT]")]
    pub destination: String,
    /// The rest
    #[command(flatten)]
    pub options: HostOptions,
}

/// The host to change.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Its name
    pub name: String,
    /// Where it is
    #[arg(long, value_name = "[USER@]ADDRESS[:PORT]")]
    pub address: Option<String>,
    /// Forget a setting: address, port, user, key, jump, directory, compression, sessions, host-key, limits.rate ...
    #[arg(long, value_name = "SETTING")]
    pub unset: Vec<String>,
    /// The rest
    #[command(flatten)]
    pub options: HostOptions,
}

/// What a host's entry may say besides.
#[derive(Debug, Args)]
pub struct HostOptions {
    /// A file with a private key to log in with; can be given several times
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<String>,
    /// Connect through this host, or several with commas in between; `none` for none
    #[arg(long, value_name = "HOST")]
    pub jump: Option<String>,
    /// Where ckptctl keeps things there and programs work, instead of ~/.cache: an absolute path that you may write to
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<String>,
    /// How memory is compressed on the way: none, lz4 or zstd
    #[arg(long, value_name = "CODEC", value_parser = ["none", "lz4", "zstd"])]
    pub compression: Option<String>,
    /// How many SSH sessions carry one move
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub sessions: Option<u32>,
    /// How many bytes per second a move may use: 50MB, 1.5MiB
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<String>,
    /// The most memory of a program that may move there: 8GiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Accept the host's key without asking if none is known yet
    #[arg(long)]
    pub accept_new: bool,
}

/// The host to remove.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Its name
    pub name: String,
}

/// The host to test.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Its name; all hosts if not given
    pub name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
