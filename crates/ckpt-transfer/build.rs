//! Refuses an OpenSSL that was built without threads: sessions run in several.

use std::fs;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_OPENSSL_INCLUDE");
    // Only a vendored OpenSSL says where it is; one of the system is built with threads.
    let Some(include) = std::env::var_os("DEP_OPENSSL_INCLUDE") else { return };
    let header = Path::new(&include).join("openssl/configuration.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_default();
    if !text.contains("define OPENSSL_THREADS") {
        println!(
            "cargo::error=OpenSSL was built without threads ({}). `cargo clean -p openssl-sys` (and with --release), and \
             build again from the workspace's directory, so that .cargo/config.toml is read",
            header.display()
        );
    }
}
