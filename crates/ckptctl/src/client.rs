//! stub
pub fn connect(_job: &str) -> anyhow::Result<std::os::unix::net::UnixStream> {
    anyhow::bail!("stub")
}
