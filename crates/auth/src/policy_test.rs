//! [`PolicyTest`]: a made-up request, to see which rule of a policy decides about it.

use std::net::IpAddr;
use std::time::SystemTime;

use jreg_oci::{RepositoryName, Tag};

use crate::{
    AccessAction, ClientCertificate, CredentialGrants, Identity, IdentitySource, NamedIdentity,
    Policy, PolicyDecision, PolicyQuery, QueryTag,
};

/// A request that a policy is tested with.
#[derive(Clone, Debug, Default)]
pub struct PolicyTest {
    /// The name of the identity, with its source before a colon: `access-token:ci`, `github:acme/app`; a
    /// user has none. `None`: anonymous.
    pub identity: Option<String>,
    /// Groups of an issuer's token.
    pub groups: Vec<String>,
    /// Claims of an issuer's token.
    pub claims: Vec<(String, String)>,
    pub certificate: Option<ClientCertificate>,
    /// `None`: every action.
    pub action: Option<AccessAction>,
    pub repository: Option<RepositoryName>,
    pub tag: Option<Tag>,
    /// The client's address.
    pub address: Option<IpAddr>,
}

impl PolicyTest {
    /// The decision on each action. Grants of credentials are not part of it.
    pub fn decide(&self, policy: &Policy, now: SystemTime) -> Vec<(AccessAction, PolicyDecision)> {
        let identity = self.identity();
        let actions = match self.action {
            Some(action) => vec![action],
            None => AccessAction::ALL.into(),
        };
        let decide = |action: AccessAction| {
            let query = PolicyQuery {
                identity: &identity,
                certificate: self.certificate.as_ref(),
                action,
                repository: self.repository.as_ref().filter(|_| action.has_repository()),
                tag: self.tag.as_ref().map_or(QueryTag::No, |tag| QueryTag::Is(tag.as_str())),
                address: self.address,
                now,
            };
            (action, policy.decide(&query, CredentialGrants::None))
        };
        actions.into_iter().map(decide).collect()
    }

    fn identity(&self) -> Identity {
        let Some(name) = &self.identity else { return Identity::Anonymous };
        let source = match name.split_once(':') {
            None => IdentitySource::Htpasswd,
            Some(("access-token", id)) => IdentitySource::AccessToken(id.to_owned()),
            Some(("certificate", _)) => IdentitySource::Certificate,
            Some((issuer, _)) => IdentitySource::Issuer(issuer.to_owned()),
        };
        let claims = self.claims.iter();
        let claims = claims.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let groups = self.groups.iter().cloned().collect();
        Identity::Named(Box::new(NamedIdentity { name: name.clone(), groups, claims, source }))
    }
}
