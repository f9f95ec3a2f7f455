//! The names of nfs(5): which of them have a key of their own, which may stand in the list `options`, which are not the
//! operator's to say, and which contradict each other. Pure.

use super::{LocalLock, LookupCache, NfsBackend, NfsProto, NfsVersion, Security, TransportSecurity, Write, find};

/// What is wrong with an option, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Mistake {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What may follow the `=` of an option of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// A whole number between these.
    Number(u32, u32),
    /// Nothing, or one of these words.
    MaybeOneOf(&'static [&'static str]),
    /// An address or a host's name.
    Host,
    /// A word without a comma, such as an SELinux context.
    Word,
}

/// What may stand in `options`, and of which versions it is.
const FREE: [(&str, Value, Only); 23] = [
    ("acdirmax", Value::Number(0, 86400), Only::All),
    ("acdirmin", Value::Number(0, 86400), Only::All),
    ("acl", Value::None, Only::V3),
    ("acregmax", Value::Number(0, 86400), Only::All),
    ("acregmin", Value::Number(0, 86400), Only::All),
    ("clientaddr", Value::Host, Only::V4),
    ("context", Value::Word, Only::All),
    ("defcontext", Value::Word, Only::All),
    ("fscontext", Value::Word, Only::All),
    ("max_connect", Value::Number(1, 16), Only::V4),
    ("migration", Value::None, Only::V4),
    ("mounthost", Value::Host, Only::V3),
    ("mountvers", Value::Number(3, 3), Only::V3),
    ("namlen", Value::Number(1, 255), Only::V3),
    ("noacl", Value::None, Only::V3),
    ("nomigration", Value::None, Only::V4),
    ("nordirplus", Value::None, Only::All),
    ("noresvport", Value::None, Only::All),
    ("notrunkdiscovery", Value::None, Only::V4),
    ("rdirplus", Value::MaybeOneOf(&["none", "force"]), Only::All),
    ("resvport", Value::None, Only::All),
    ("rootcontext", Value::Word, Only::All),
    ("trunkdiscovery", Value::None, Only::V4),
];

/// The versions that an option is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    V3,
    V4,
}

/// Options of nfs(5) and mount(8) that have a key, with what to write.
const KEYED: [(&str, &str); 53] = [
    ("ac", "noac = false"),
    ("actimeo", "actimeo = \"30s\""),
    ("async", "sync = false"),
    ("cto", "cto = true"),
    ("fsc", "fsc = true"),
    ("hard", "hard = true"),
    ("local_lock", "local_lock = \"all\""),
    ("lock", "lock = true"),
    ("lookupcache", "lookupcache = \"none\""),
    ("minorversion", "version = \"4.1\""),
    ("mountport", "mountport = 20048"),
    ("mountproto", "mountproto = \"tcp\""),
    ("nconnect", "nconnect = 4"),
    ("nfsvers", "version = \"4.2\""),
    ("noac", "noac = true"),
    ("nocto", "cto = false"),
    ("nofsc", "fsc = false"),
    ("nolock", "lock = false"),
    ("nosoftreval", "softreval = false"),
    ("port", "port = 2049"),
    ("posix", "lock = true"),
    ("proto", "proto = \"tcp\""),
    ("rdma", "proto = \"rdma\""),
    ("retrans", "retrans = 3"),
    ("ro", "read_only = true"),
    ("rsize", "rsize = \"1MiB\""),
    ("rw", "read_only = false"),
    ("sec", "sec = \"krb5p\""),
    ("soft", "hard = false"),
    ("softerr", "hard = false"),
    ("softreval", "softreval = true"),
    ("sync", "sync = true"),
    ("tcp", "proto = \"tcp\""),
    ("tcp6", "proto = \"tcp6\""),
    ("timeo", "timeo = \"60s\""),
    ("udp", "proto = \"tcp\""),
    ("udp6", "proto = \"tcp6\""),
    ("v3", "version = \"3\""),
    ("v4", "version = \"4\""),
    ("v4.0", "version = \"4.0\""),
    ("v4.1", "version = \"4.1\""),
    ("v4.2", "version = \"4.2\""),
    ("vers", "version = \"4.2\""),
    ("write", "write = \"eager\""),
    ("wsize", "wsize = \"1MiB\""),
    ("xprtsec", "xprtsec = \"tls\""),
    ("dev", "nodev = false in a volume's block"),
    ("exec", "noexec = false in a volume's block"),
    ("nodev", "nodev = true in a volume's block"),
    ("noexec", "noexec = true in a volume's block"),
    ("nosuid", "nosuid = true in a volume's block"),
    ("suid", "nosuid = false in a volume's block"),
    ("posixlock", "lock = true"),
];

/// Options that saddlebag sets itself, or never sets, and why.
const OURS: [(&str, &str); 16] = [
    ("_netdev", "saddlebag mounts when an allocation needs it, and at its own start"),
    ("addr", "the address is found from `server`"),
    ("auto", "saddlebag mounts when an allocation needs it, and at its own start"),
    ("bg", "saddlebag tries again by itself"),
    ("bind", "saddlebag binds directories of the mount itself"),
    ("fg", "saddlebag tries again by itself"),
    ("intr", "kernels since 2.6.25 ignore it"),
    ("nofail", "saddlebag tries again by itself"),
    ("nointr", "kernels since 2.6.25 ignore it"),
    ("nosharecache", "every source has a superblock of its own already"),
    ("remount", "a mount with other options is another source"),
    ("retry", "saddlebag tries again by itself"),
    ("sharecache", "every source has a superblock of its own, so that nobody else's options apply to it"),
    ("sloppy", "it would have wrong options ignored"),
    ("user", "only root mounts"),
    ("users", "only root mounts"),
];

/// The name of an option, and what follows its `=`.
fn split(option: &str) -> (&str, Option<&str>) {
    option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)))
}

/// Whether an entry of the list `options` can stand there.
///
/// # Errors
/// What to write instead.
pub fn check_free(option: &str) -> Result<(), Mistake> {
    let (name, value) = split(option);
    if let Some((_, kind, _)) = FREE.iter().find(|(known, ..)| *known == name) {
        return check_value(name, value, *kind);
    }
    let shown: String = option.chars().take(100).collect();
    if let Some((_, key)) = KEYED.iter().find(|(known, _)| *known == name) {
        return Err(Mistake::new(format!("the option {shown:?} has a key of its own")).hint(format!("write {key}")));
    }
    if let Some((_, reason)) = OURS.iter().find(|(known, _)| *known == name) {
        return Err(Mistake::new(format!("the option {shown:?} cannot be set: {reason}")).hint("leave it out"));
    }
    let mistake = Mistake::new(format!("{shown:?} is not an option of an NFS mount"));
    let known = FREE.iter().map(|(name, ..)| *name).chain(KEYED.iter().map(|(name, _)| *name));
    Err(match crate::hcl::nearest(name, known) {
        Some(near) => mistake.hint(format!("did you mean {near:?}?")),
        None => mistake.hint("see docs/backends/nfs.md for all that can be set"),
    })
}

fn check_value(name: &str, value: Option<&str>, kind: Value) -> Result<(), Mistake> {
    let wrong = |rule: String| Err(Mistake::new(format!("the option {name} {rule}")));
    match (kind, value) {
        (Value::None, Some(_)) => wrong("takes no value".to_owned()),
        (Value::None, None) | (Value::MaybeOneOf(_), None) => Ok(()),
        (Value::Number(least, most), value) => {
            match value.and_then(number::<u32>).filter(|number| (least..=most).contains(number)) {
                Some(_) => Ok(()),
                None if least == most => wrong(format!("must be {name}={least}")),
                None => wrong(format!("needs a number from {least} to {most}")),
            }
        }
        (Value::MaybeOneOf(words), value) => {
            if value.is_some_and(|value| words.contains(&value)) {
                Ok(())
            } else {
                wrong(format!("must be one of {}", words.join(", ")))
            }
        }
        (Value::Host, value) => {
            if value.is_some_and(super::is_host) {
                Ok(())
            } else {
                wrong("needs an address or the name of a host".to_owned())
            }
        }
        (Value::Word, value) => {
            let is_word = |value: &str| {
                !value.is_empty() && value.len() <= 256 && value.bytes().all(|b| b.is_ascii_graphic() && b != b',')
            };
            if value.is_some_and(is_word) {
                Ok(())
            } else {
                wrong("needs a value without commas and spaces".to_owned())
            }
        }
    }
}

/// A plain decimal number: no sign, no space.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// What contradicts each other in settings whose parts are all right.
pub fn contradictions(of: &NfsBackend) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |message: &str, hint: &str| found.push(Mistake::new(message).hint(hint));
    let has = |name: &str| of.options.iter().any(|option| split(option).0 == name);
    let is_v3 = of.version == NfsVersion::V3;
    if !of.hard && !of.read_only {
        say(
            "hard = false loses writes: one that the server does not answer in time fails, and most programs do not look",
            "leave it out, or add read_only = true",
        );
    }
    if !is_v3 && of.local_lock != LocalLock::None {
        say("local_lock is of NFS 3 only: NFS 4 always locks at the server", "leave it out, or write version = \"3\"");
    }
    if !of.lock && of.local_lock != LocalLock::None {
        say("lock = false keeps all locks local already", "leave local_lock out");
    }
    if !is_v3 && (of.mountport.is_some() || of.mountproto.is_some()) {
        say("mountport and mountproto are of NFS 3 only: NFS 4 has no mount protocol", "leave them out");
    }
    let caches = ["acregmin", "acregmax", "acdirmin", "acdirmax"];
    let timed = caches.iter().any(|name| has(name));
    if of.actimeo.is_some() && timed {
        say("actimeo sets what acregmin, acregmax, acdirmin and acdirmax set", "write either it or them");
    }
    if of.noac && (of.actimeo.is_some_and(|seconds| seconds > 0) || timed) {
        say("noac = true caches no attributes, so no time can be given for them", "leave noac or the times out");
    }
    if of.proto == NfsProto::Tcp && of.server.parse::<std::net::Ipv6Addr>().is_ok()
        || of.proto == NfsProto::Tcp6 && of.server.parse::<std::net::Ipv4Addr>().is_ok()
    {
        say("proto is of another family than the server's address", "write tcp6 for IPv6 and tcp for IPv4");
    }
    if of.proto == NfsProto::Rdma && of.xprtsec != TransportSecurity::None {
        say("xprtsec is TLS over TCP, and proto is rdma", "write proto = \"tcp\"");
    }
    let time_of = |name: &str| {
        of.options
            .iter()
            .map(|option| split(option))
            .find(|(found, _)| *found == name)
            .and_then(|(_, value)| number(value?))
    };
    for (least, most) in [("acregmin", "acregmax"), ("acdirmin", "acdirmax")] {
        let times: (Option<u32>, Option<u32>) = (time_of(least), time_of(most));
        if let (Some(first), Some(last)) = times
            && first > last
        {
            say(&format!("{least}={first} is more than {most}={last}"), "exchange the two");
        }
    }
    for (one, other) in [
        ("acl", "noacl"),
        ("migration", "nomigration"),
        ("rdirplus", "nordirplus"),
        ("resvport", "noresvport"),
        ("trunkdiscovery", "notrunkdiscovery"),
    ] {
        if has(one) && has(other) {
            say(&format!("{one} and {other} contradict each other"), "write one of them");
        }
    }
    for (index, option) in of.options.iter().enumerate() {
        let name = split(option).0;
        if of.options[..index].iter().any(|earlier| split(earlier).0 == name) {
            say(&format!("the option {name} is there twice"), "write it once");
        }
        match FREE.iter().find(|(known, ..)| *known == name).map(|(.., only)| only) {
            Some(Only::V3) if !is_v3 => {
                say(&format!("the option {name} is of NFS 3 only"), "leave it out, or write version = \"3\"");
            }
            Some(Only::V4) if is_v3 => {
                say(&format!("the option {name} is of NFS 4 only, and version is \"3\""), "leave it out");
            }
            _ => {}
        }
    }
    found
}

/// What is allowed, and has a price that an operator should know.
pub fn doubts(of: &NfsBackend) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |message: &str, hint: &str| found.push(Mistake::new(message).hint(hint));
    if !of.hard {
        say("hard = false: a read that the server does not answer in time fails", "leave it out to have tasks wait");
    }
    let is_v3 = of.version == NfsVersion::V3;
    if !of.lock && is_v3 {
        say(
            "lock = false: what one client locks, another one does not see",
            "safe only for volumes that one node at a time uses",
        );
    }
    if !of.lock && !is_v3 {
        say("lock = false has no effect: NFS 4 always locks at the server", "leave it out");
    }
    if of.local_lock != LocalLock::None {
        say(
            "local_lock: such locks are not seen by other clients",
            "safe only for volumes that one node at a time uses",
        );
    }
    if !of.cto {
        say(
            "cto = false: what another client has written and closed may not be seen",
            "safe only for volumes that nobody else changes",
        );
    }
    if of.softreval {
        say("softreval = true: old attributes are shown while the server is away", "leave it out to have tasks wait");
    }
    found
}

/// Takes one option of a URL's query, by its name in nfs(5), into the settings.
///
/// # Errors
/// The option is not one that a URL may have, or its value is wrong.
pub fn apply(to: &mut NfsBackend, option: &str) -> Result<(), Mistake> {
    let (name, value) = split(option);
    let shown: String = option.chars().take(100).collect();
    let wrong = |rule: &str| Mistake::new(format!("{shown:?} in the URL's query is wrong: {rule}"));
    let bare = || if value.is_none() { Ok(()) } else { Err(wrong("it takes no value")) };
    let count = |least: u32, most: u32| {
        let number = value.and_then(number::<u32>).filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| wrong(&format!("it needs a number from {least} to {most}")))
    };
    let port = || value.and_then(number::<u16>).filter(|port| *port > 0).ok_or_else(|| wrong("it needs a port"));
    match name {
        "vers" | "nfsvers" => {
            to.version = one_of(value, &NfsVersion::NAMES).map_err(|words| wrong(&words))?;
        }
        "lock" => to.lock = bare().map(|()| true)?,
        "nolock" => to.lock = bare().map(|()| false)?,
        "ro" => to.read_only = bare().map(|()| true)?,
        "hard" => to.hard = bare().map(|()| true)?,
        "sync" => to.sync = bare().map(|()| true)?,
        "noac" => to.noac = bare().map(|()| true)?,
        "port" => to.port = port()?,
        "mountport" => to.mountport = Some(port()?),
        "timeo" => to.timeo = Some(count(1, super::MOST_TIMEO)?),
        "retrans" => to.retrans = Some(count(1, super::MOST_RETRANS)?),
        "nconnect" => to.nconnect = Some(count(1, super::MOST_CONNECTIONS)?),
        "rsize" => to.rsize = Some(count(super::LEAST_SIZE, super::MOST_SIZE)?),
        "wsize" => to.wsize = Some(count(super::LEAST_SIZE, super::MOST_SIZE)?),
        "actimeo" => to.actimeo = Some(count(0, super::MOST_ACTIMEO)?),
        "proto" => to.proto = one_of(value, &NfsProto::NAMES).map_err(|words| wrong(&words))?,
        "sec" => to.sec = one_of(value, &Security::NAMES).map_err(|words| wrong(&words))?,
        "lookupcache" => to.lookupcache = one_of(value, &LookupCache::NAMES).map_err(|words| wrong(&words))?,
        "write" => to.write = one_of(value, &Write::NAMES).map_err(|words| wrong(&words))?,
        "soft" | "softerr" => {
            return Err(wrong("it loses writes").hint("leave it out: a task waits for its server, and goes on"));
        }
        _ => {
            let mistake = Mistake::new(format!("{shown:?} cannot be said in a URL's query"));
            return Err(match crate::hcl::nearest(name, IN_URL) {
                Some(near) => mistake.hint(format!("did you mean {near:?}?")),
                None => mistake.hint(format!("known are {}", IN_URL.join(", "))),
            });
        }
    }
    Ok(())
}

/// The options that a URL's query may have.
const IN_URL: [&str; 20] = [
    "actimeo",
    "hard",
    "lock",
    "lookupcache",
    "mountport",
    "nconnect",
    "nfsvers",
    "noac",
    "nolock",
    "port",
    "proto",
    "retrans",
    "ro",
    "rsize",
    "sec",
    "sync",
    "timeo",
    "vers",
    "write",
    "wsize",
];

fn one_of<T: Copy>(value: Option<&str>, names: &[(&'static str, T)]) -> Result<T, String> {
    value.and_then(|value| find(names, value)).ok_or_else(|| {
        let words: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("it must be one of {}", words.join(", "))
    })
}

/// Reads the query of a URL over the defaults.
///
/// # Errors
/// As [`apply`]; also where an option is there twice, or two contradict each other.
pub fn read_query(to: &mut NfsBackend, query: &str) -> Result<(), Mistake> {
    let mut seen: Vec<&str> = Vec::new();
    for option in query.split('&') {
        let name = match split(option).0 {
            "nfsvers" => "vers",
            "nolock" => "lock",
            name => name,
        };
        if seen.contains(&name) {
            return Err(Mistake::new(format!("the URL's query has {name} twice")).hint("write it once"));
        }
        seen.push(name);
        apply(to, option)?;
    }
    contradictions(to).into_iter().next().map_or(Ok(()), Err)
}
