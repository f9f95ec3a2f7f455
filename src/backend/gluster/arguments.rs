//! The arguments of `glusterfs`, as mount.glusterfs(8) puts them together.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use crate::backend::Place;
use crate::config::{GLUSTERD_PORT, GlusterBackend, GlusterTls, xlator_argument};

/// Where the client writes its log.
pub(super) fn log_file(log: &Path) -> OsString {
    let mut text = OsString::from("--log-file=");
    text.push(log);
    text
}

/// All of them. `servers` are those of the settings in the order in which the client is to ask them.
pub(super) fn all(settings: &GlusterBackend, servers: &[String], place: &Place) -> Vec<OsString> {
    // In the foreground: it is started where it is to stay, and its process id is its own.
    let mut args = vec![OsString::from("--no-daemon"), log_file(&place.log)];
    args.extend(servers.iter().map(|server| OsString::from(format!("--volfile-server={server}"))));
    // Behind the servers: the first of them sets it back. The others are asked at the usual one.
    if settings.port != GLUSTERD_PORT {
        args.push(OsString::from(format!("--volfile-server-port={}", settings.port)));
    }
    args.push(OsString::from(format!("--volfile-id={}", settings.volume)));
    args.push(OsString::from("--process-name=fuse"));
    args.extend(options(settings).into_iter().map(OsString::from));
    args.extend(xlators(settings).into_iter().map(|option| OsString::from(format!("--xlator-option={option}"))));
    args.push(place.mount_point.clone().into_os_string());
    args
}

fn options(settings: &GlusterBackend) -> Vec<String> {
    let of = &settings.options;
    let mut args = Vec::new();
    let mut value = |name: &str, said: Option<&dyn Display>| {
        args.extend(said.map(|said| format!("--{name}={said}")));
    };
    let seconds = |said: Option<Duration>| said.map(|said| said.as_secs_f64());
    let on_off = |said: bool| if said { "yes" } else { "no" };
    fn some<T: Display>(said: &Option<T>) -> Option<&dyn Display> {
        said.as_ref().map(|said| said as &dyn Display)
    }
    value("log-level", some(&of.log_level));
    value("attribute-timeout", some(&seconds(of.attribute_timeout)));
    value("entry-timeout", some(&seconds(of.entry_timeout)));
    value("negative-timeout", some(&seconds(of.negative_timeout)));
    value("gid-timeout", some(&of.gid_timeout.map(|said| said.as_secs())));
    value("direct-io-mode", some(&of.direct_io_mode));
    value("auto-invalidation", some(&of.auto_invalidation.map(on_off)));
    value("use-readdirp", some(&of.use_readdirp.map(on_off)));
    value("lru-limit", some(&of.lru_limit));
    value("invalidate-limit", some(&of.invalidate_limit));
    value("background-qlen", some(&of.background_qlen));
    value("congestion-threshold", some(&of.congestion_threshold));
    value("reader-thread-count", some(&of.reader_thread_count));
    let management = settings.tls.as_ref().and_then(|tls| tls.management);
    value("secure-mgmt", some(&management.map(on_off)));
    let mut flag = |name: &str, said: bool| args.extend(said.then(|| format!("--{name}")));
    flag("acl", of.acl);
    flag("resolve-gids", of.resolve_gids);
    flag("kernel-writeback-cache=yes", of.kernel_writeback_cache);
    flag("fopen-keep-cache=yes", of.fopen_keep_cache);
    flag("read-only", settings.read_only);
    args
}

fn xlators(settings: &GlusterBackend) -> Vec<String> {
    let client = |option: &str, value: &dyn Display| format!("{}-client-*.{option}={value}", settings.volume);
    let mut options = Vec::new();
    options.extend(settings.options.ping_timeout.map(|said| client("ping-timeout", &said.as_secs())));
    options.extend(settings.options.frame_timeout.map(|said| client("frame-timeout", &said.as_secs())));
    if let Some(GlusterTls { certificate, key, ca, certificate_depth, ciphers, .. }) = &settings.tls {
        let files = [("ssl-own-cert", certificate), ("ssl-private-key", key), ("ssl-ca-list", ca)];
        for (option, file) in files {
            options.extend(file.iter().map(|file| client(&format!("transport.socket.{option}"), &file.display())));
        }
        options.extend(certificate_depth.iter().map(|said| client("transport.socket.ssl-cert-depth", said)));
        options.extend(ciphers.iter().map(|said| client("transport.socket.ssl-cipher-list", said)));
    }
    let own = settings.xlator_options.iter();
    options.extend(own.filter_map(|(name, value)| xlator_argument(&settings.volume, name, value)));
    options
}
