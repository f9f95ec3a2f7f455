//! What an operator asks of a volume: whether it may be done, and what it comes to.

use super::*;

impl Reconciler {
    pub(super) fn begin_registering(
        &mut self,
        file: &str,
        text: String,
        make: bool,
    ) -> Result<(String, Doing, VolumeReply), Refusal> {
        let file: String = file.chars().take(1024).collect();
        let volume = self
            .config
            .read_volume(&text, &file)
            .map_err(|invalid| Refusal::configuration(format!("the definition is not valid\n{invalid}")))?;
        let name = volume.name.clone();
        self.refuse_if_changing(&name)?;
        let Some(placed) = self.registry.place(&volume) else {
            return Err(Refusal::configuration(format!("volume {name:?} is on a backend that does not exist")));
        };
        if make && placed.backend.kind.is_read_only() {
            let message = format!("volume {name:?} cannot be created: backend {} is read-only", volume.backend);
            return Err(Refusal::configuration(message).hint("create its directory there, and register it"));
        }
        let former = self.registry.find(&name).cloned();
        let outcome = match &former {
            Some(former) if former.text.as_ref() == Some(&text) => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
            None if self.registry.unusable().contains_key(&name) => Outcome::Changed,
            None => Outcome::Registered,
        };
        // A comment may be changed under a task; where a volume is, or what may be done with it, may not.
        // But an image may grow.
        let is_grown = |former: &Volume| {
            former.format.is_some()
                && former.size < volume.size
                && *former == Volume { size: former.size, ..volume.clone() }
        };
        if former.as_ref().is_none_or(|former| former.volume != volume && !is_grown(&former.volume)) {
            self.refuse_if_used(&name, "its definition cannot be changed")?;
        }
        let unsize = former.and_then(|former| self.find_unsizing(&former.volume, &placed));
        let answer = VolumeReply {
            volume: name.clone(),
            outcome,
            created: None,
            directory: None,
            kept: None,
            warnings: self.registry.find_doubtful(&volume),
        };
        Ok((name, Doing::Register { volume, text, make, unsize }, answer))
    }

    /// A former size that the storage system would go on keeping the former directory to.
    fn find_unsizing(&self, former: &Volume, placed: &Placed) -> Option<Placed> {
        // An image has its size in itself.
        let was = self.registry.place(former).filter(|was| backend::beneath(&was.backend).is_none())?;
        let is_same = backend::key_of(&was.backend) == backend::key_of(&placed.backend)
            && within_source(&was).path == within_source(placed).path;
        let is_kept = was.volume.size.is_some() && !(is_same && placed.volume.size.is_some());
        (is_kept && backend::enforcement(&was.backend, &was.volume) == Enforcement::Enforced).then_some(was)
    }

    /// None: there is nothing by that name.
    pub(super) fn begin_deregistering(&mut self, name: &str) -> Result<Option<VolumeReply>, Refusal> {
        if !self.find_registered(name)? {
            return Ok(None);
        }
        self.refuse_if_used(name, "it cannot be deregistered")?;
        Ok(Some(empty_answer(name, Outcome::Deregistered)))
    }

    /// None: there is nothing by that name.
    pub(super) fn begin_deleting(
        &mut self,
        name: &str,
        dynamic: bool,
    ) -> Result<Option<(Doing, VolumeReply)>, Refusal> {
        let is_registered = self.find_registered(name)?;
        if let Some(unusable) = self.registry.unusable().get(name) {
            let message = format!("volume {name:?} cannot be deleted: {}", unusable.reason);
            return Err(Refusal::configuration(message).hint("register it anew first, or deregister it"));
        }
        let placed = match self.registry.find(name) {
            Some(defined) if defined.volume.format.is_some() => {
                if let Some(image) = self.registry.place(&defined.volume) {
                    self.refuse_if_attached(&image)?;
                }
                self.registry.place_file(&defined.volume)
            }
            Some(defined) => self.registry.place(&defined.volume),
            None if dynamic => self.registry.place_dynamic(name),
            None => None,
        };
        let Some(placed) = placed else { return Ok(None) };
        if placed.volume.path.as_os_str().is_empty() {
            let message = format!("volume {name:?} is all of backend {}, and is not deleted", placed.backend.name);
            return Err(Refusal::configuration(message).hint("deregister it"));
        }
        if placed.backend.kind.is_read_only() {
            let message = format!("volume {name:?} cannot be deleted: backend {} is read-only", placed.backend.name);
            return Err(Refusal::configuration(message).hint("deregister it"));
        }
        self.refuse_if_used(name, "it cannot be deleted")?;
        self.refuse_if_shared(&placed)?;
        Ok(Some((Doing::Delete { placed, is_registered }, empty_answer(name, Outcome::Deleted))))
    }

    /// Whether a definition of that name was registered, and may be changed now.
    fn find_registered(&self, name: &str) -> Result<bool, Refusal> {
        if !is_name(name) {
            let shown: String = name.chars().take(128).collect();
            let message = format!("{shown:?} is not a volume's name");
            return Err(refusal(Kind::Usage, message).hint(format!("a name is {NAME_RULE}")));
        }
        self.refuse_if_changing(name)?;
        match self.registry.find(name) {
            Some(defined) if defined.text.is_none() => {
                let message = format!("volume {name:?} is defined in the agent's configuration, at {}", defined.place);
                Err(Refusal::configuration(message)
                    .hint("take its block out of that file, and restart the agent; what is mounted stays"))
            }
            found => Ok(found.is_some() || self.registry.unusable().contains_key(name)),
        }
    }

    pub(super) fn absent(&self, name: &str) -> VolumeReply {
        let known = self.registry.defined().map(|defined| defined.volume.name.as_str());
        let near = nearest(name, known.filter(|known| *known != name)).map(|near| format!("did you mean {near:?}?"));
        VolumeReply { warnings: near.into_iter().collect(), ..empty_answer(name, Outcome::Absent) }
    }

    fn refuse_if_changing(&self, name: &str) -> Result<(), Refusal> {
        if self.changes.contains_key(name) {
            let message = format!("another change of volume {name:?} is under way");
            return Err(refusal(Kind::TryAgain, message).hint("try again when it is done"));
        }
        Ok(())
    }
}
