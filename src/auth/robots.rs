//! [`Robots`]: the access tokens in the store, which all instances share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{InvalidRobot, Robot, RobotId, RobotPermission};
use jreg_registry::{ACCESS_TOKENS, access_token};
use jreg_storage::{Clock, ErrorKind, ListRequest, PutMode, Record, Store};
use quick_cache::sync::Cache;

use super::sessions::TRUST_MAX;

/// The most records that are remembered.
const REMEMBERED_MAX: usize = 8192;
/// The most ids that are remembered to be absent. They have a cache of their own: a client that invents
/// ids must not evict the records.
const ABSENT_REMEMBERED_MAX: usize = 1024;
/// How often a record is read again when somebody else changes it at the same time.
const ATTEMPTS_MAX: u32 = 5;
/// The most access tokens of a registry.
const ROBOTS_MAX: usize = 100_000;

/// The access tokens.
#[derive(Debug)]
pub struct Robots {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    cache: Cache<RobotId, Known>,
    absent: Cache<RobotId, Known>,
}

/// A record, as it was a moment ago.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// `None`: it is not there.
    pub(super) robot: Option<Arc<Robot>>,
    /// Until when that is believed, on the clock that never goes back.
    pub(super) until: Duration,
}

/// Why an access token cannot be made, shown or revoked.
#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// There can be no such one.
    #[error(transparent)]
    Invalid(#[from] InvalidRobot),
    /// There is none with this id.
    #[error("there is no access token {0}")]
    Unknown(RobotId),
    /// Somebody else changes it all the time.
    #[error("access token {0} is being changed by somebody else")]
    Contended(RobotId),
    /// There are too many.
    #[error("there are more than {ROBOTS_MAX} access tokens")]
    TooMany,
}

impl Robots {
    /// Those of `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let (cache, absent) = (Cache::new(REMEMBERED_MAX), Cache::new(ABSENT_REMEMBERED_MAX));
        Self { store, clock, cache, absent }
    }

    /// A record that is remembered, at most [`TRUST_MAX`] old.
    pub(super) fn remembered(&self, id: &RobotId) -> Option<Known> {
        let known = self.cache.get(id).or_else(|| self.absent.get(id))?;
        (self.clock.monotonic() < known.until).then_some(known)
    }

    /// A record, at most [`TRUST_MAX`] old.
    pub(super) async fn get(&self, id: &RobotId) -> Result<Known, RobotError> {
        if let Some(known) = self.remembered(id) {
            return Ok(known);
        }
        let asked = self.clock.monotonic();
        let robot = self.read(id).await?.map(|(robot, _)| Arc::new(robot));
        // From before the read, so that no revocation takes longer than is said.
        let known = Known { robot, until: asked + TRUST_MAX };
        match known.robot {
            Some(_) => self.cache.insert(id.clone(), known.clone()),
            None => {
                self.cache.remove(id);
                self.absent.insert(id.clone(), known.clone());
            }
        }
        Ok(known)
    }

    async fn read(&self, id: &RobotId) -> Result<Option<(Robot, Record)>, RobotError> {
        let key = access_token(&id.to_string()).ok_or(InvalidRobot::Id)?;
        match self.store.get(&key).await {
            Ok(record) => Ok(Some((Robot::of_bytes(&record.bytes)?, record))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a token. Its text is given once and kept nowhere.
    pub async fn create(
        &self,
        name: &str,
        permissions: Vec<RobotPermission>,
        lifetime: Option<Duration>,
    ) -> Result<(String, RobotId, Robot), RobotError> {
        let (token, robot) = Robot::create(name, permissions, self.now(), lifetime)?;
        let key = access_token(&token.id.to_string()).ok_or(InvalidRobot::Id)?;
        self.store.put(&key, robot.to_bytes().into(), PutMode::Create).await?;
        self.absent.remove(&token.id);
        Ok((token.reveal(), token.id, robot))
    }

    /// Every token, by id.
    pub async fn list(&self) -> Result<Vec<(RobotId, Robot)>, RobotError> {
        let mut request = ListRequest::below(ACCESS_TOKENS);
        let mut found = Vec::new();
        loop {
            let page = self.store.list(&request).await?;
            for entry in page.entries {
                let id = entry.key.as_str().strip_prefix(ACCESS_TOKENS).unwrap_or_default();
                let Ok(id) = id.parse::<RobotId>() else { continue };
                if let Some((robot, _)) = self.read(&id).await? {
                    found.push((id, robot));
                }
                if found.len() > ROBOTS_MAX {
                    return Err(RobotError::TooMany);
                }
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Makes a token good for nothing, everywhere within [`TRUST_MAX`].
    pub async fn revoke(&self, id: &RobotId) -> Result<Robot, RobotError> {
        let key = access_token(&id.to_string()).ok_or(InvalidRobot::Id)?;
        for _ in 0..ATTEMPTS_MAX {
            let Some((robot, record)) = self.read(id).await? else {
                return Err(RobotError::Unknown(id.clone()));
            };
            if robot.revoked.is_some() {
                return Ok(robot);
            }
            let revoked = robot.revoked(self.now())?;
            let mode = PutMode::Match(record.etag);
            match self.store.put(&key, revoked.to_bytes().into(), mode).await {
                Ok(_) => {
                    self.cache.remove(id);
                    return Ok(revoked);
                }
                Err(error) if error.kind() == ErrorKind::Precondition => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RobotError::Contended(id.clone()))
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }
}
