//! What a filer has to be told of a volume before the volume is used.
//!
//! A bucket loses its empty directories two minutes after their last entry was removed, under a task that counts on them,
//! unless its attribute says otherwise. And what is new below a directory goes to the collection of the directory's rule.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::metadata::{self, Bucket, MetadataError};
use super::rpc::Filers;
use super::rules::{Rule, RulesError};
use super::security;
use crate::backend::PrepareError;
use crate::config::SeaweedfsBackend;
use crate::volume::Resolved;

/// How long a filer's word is good for: a volume that is bound again and again costs it nothing.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// What was seen to, by filers and what it was, and when. Volumes are registered, so there are not many.
static SEEN_TO: LazyLock<Mutex<SeenTo>> = LazyLock::new(Mutex::default);

type SeenTo = HashMap<(Vec<String>, What), Instant>;

/// Something that is seen to once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// That a bucket keeps its empty directories.
    Bucket(String),
    /// That a directory has a collection.
    Collection(String, String),
}

/// Sees to all that a volume needs.
///
/// # Errors
/// [`PrepareError`], with what the operator can do.
pub(super) fn prepare(settings: &SeaweedfsBackend, volume: &Resolved) -> Result<(), PrepareError> {
    if settings.read_only || volume.read_only {
        return Ok(());
    }
    let path = volume.path.to_str().unwrap_or_default().trim_matches('/');
    if path.is_empty() {
        return Ok(());
    }
    if let (Some(name), Some(all)) = (&volume.collection, &settings.collection)
        && name != all
    {
        return Err(PrepareError {
            message: format!(
                "volume {} is to be in collection {name}, and its backend's mount puts all into {all}",
                volume.name
            ),
            hint: Some("say `collection` of the volumes only, and not of the backend".into()),
            is_temporary: false,
        });
    }
    let collection = volume.collection.as_deref().map(|name| What::Collection(format!("/{path}/"), name.to_owned()));
    // Which directory holds the buckets only the filer knows; nearly always it is this.
    let is_seen_to = |what: &What| {
        let seen = SEEN_TO.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(settings.filers.clone(), what.clone())).is_some_and(|at| at.elapsed() < GOOD_FOR)
    };
    let path_itself = What::Bucket(format!("/{path}"));
    if is_seen_to(&path_itself) && collection.as_ref().is_none_or(is_seen_to) {
        return Ok(());
    }
    let security = security::find(settings.security.as_deref());
    let filers = metadata::filers(&settings.filers, security.as_deref());
    let note = |what: What| {
        SEEN_TO.lock().unwrap_or_else(PoisonError::into_inner).insert((settings.filers.clone(), what), Instant::now());
    };
    let buckets =
        metadata::buckets_directory(filers).map_err(|error| told(&error, volume, "ask where buckets are", None))?;
    let bucket = bucket_of(&buckets, path);
    if let Some(What::Collection(prefix, name)) = collection {
        see_to_collection(filers, volume, bucket, &prefix, &name)?;
        note(What::Collection(prefix, name));
    }
    let is_done = match bucket {
        Some(bucket) => see_to_bucket(filers, volume, &buckets, bucket)?,
        None => true,
    };
    if is_done {
        note(path_itself);
    }
    Ok(())
}

/// The bucket that a path lies in, or is.
fn bucket_of<'a>(buckets: &str, path: &'a str) -> Option<&'a str> {
    let below = path.strip_prefix(buckets.trim_matches('/'))?.strip_prefix('/')?;
    below.split('/').next().filter(|name| !name.is_empty())
}

/// Whether the bucket is there, and keeps its empty directories from now on.
fn see_to_bucket(filers: Filers<'_>, volume: &Resolved, buckets: &str, bucket: &str) -> Result<bool, PrepareError> {
    match metadata::allow_empty_folders(filers, buckets, bucket) {
        Ok(Bucket::Missing) => Ok(false),
        Ok(Bucket::Keeps) => Ok(true),
        Ok(Bucket::KeepsNow) => {
            tracing::info!(volume = %volume.name, bucket, "the bucket keeps its empty directories from now on");
            Ok(true)
        }
        Err(error) => {
            let hint = format!("say it yourself, in `weed shell`: s3.bucket.allowEmptyFolders -name {bucket} -enable");
            let what =
                format!("have bucket {bucket} keep its empty directories, which its filer removes after minutes");
            Err(told(&error, volume, &what, Some(hint)))
        }
    }
}

fn see_to_collection(
    filers: Filers<'_>,
    volume: &Resolved,
    bucket: Option<&str>,
    prefix: &str,
    collection: &str,
) -> Result<(), PrepareError> {
    if let Some(bucket) = bucket {
        return if bucket == collection {
            // A bucket is a collection by itself.
            Ok(())
        } else {
            Err(PrepareError {
                message: format!(
                    "volume {} is to be in collection {collection}, and lies in bucket {bucket}, whose data is always in the collection of its name",
                    volume.name
                ),
                hint: Some("leave `collection` out, or put the volume elsewhere in the filer".into()),
                is_temporary: false,
            })
        };
    }
    let rule = Rule { prefix: prefix.to_owned(), collection: collection.to_owned() };
    match metadata::apply_rule(filers, &rule) {
        Ok(true) => {
            tracing::info!(volume = %volume.name, prefix, collection, "the filer keeps what is new in the volume in its collection");
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(error) => {
            let hint = match &error {
                MetadataError::Rules(RulesError::Otherwise { found, .. }) => format!(
                    "write collection = {found:?} into the definition of volume {}; its data would else be in two collections",
                    volume.name
                ),
                MetadataError::Elsewhere => {
                    "run `fs.configure -apply` in `weed shell` once: it stores them there".into()
                }
                _ => format!(
                    "say it yourself, in `weed shell`: fs.configure -locationPrefix={prefix} -collection={collection} -apply"
                ),
            };
            Err(told(&error, volume, &format!("have its filer keep it in collection {collection}"), Some(hint)))
        }
    }
}

fn told(error: &MetadataError, volume: &Resolved, what: &str, hint: Option<String>) -> PrepareError {
    let is_temporary = error.is_temporary();
    PrepareError {
        message: format!("volume {}: cannot {what}: {error}", volume.name),
        // Who waits for a filer to be back has nothing to say to it.
        hint: hint.filter(|_| !is_temporary),
        is_temporary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_lies_in_a_bucket_or_elsewhere() {
        for (buckets, path, bucket) in [
            ("/buckets", "buckets/a", Some("a")),
            ("/buckets", "buckets/a/b/c", Some("a")),
            ("/buckets", "buckets", None),
            ("/buckets", "bucketsful/a", None),
            ("/buckets", "volumes/a", None),
            ("/s3/all", "s3/all/x", Some("x")),
        ] {
            assert_eq!(bucket_of(buckets, path), bucket, "{path}");
        }
    }
}
