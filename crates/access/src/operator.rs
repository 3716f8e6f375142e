//! [`OperatorAccess`]: grants everything to clients of the control socket.

use async_trait::async_trait;
use jreg_auth::{DecisionReason, Identity, IdentitySource};
use jreg_oci::Tag;

use crate::{AuthContext, AuthError, Authorizer, Principal, RequestInfo, Right};

/// Name of the identity in logs, histories and the audit log. No client can have it: names of users have no
/// colon, and no other source has this prefix.
const NAME: &str = "jreg:operator";

/// The authorizer of requests over the control socket, which only the serving user and root can open.
#[derive(Clone, Copy, Debug)]
pub struct OperatorAccess;

#[async_trait]
impl Authorizer for OperatorAccess {
    async fn identify(&self, info: RequestInfo, _: &Right) -> Result<AuthContext, AuthError> {
        let identity = Identity::named(NAME, IdentitySource::Operator);
        Ok(AuthContext::new(Principal::from_identity(identity), info))
    }

    fn grant(&self, _: &AuthContext, _: &Right) -> Result<DecisionReason, AuthError> {
        Ok(DecisionReason::Open)
    }

    fn grant_tag(&self, _: &AuthContext, _: &Right, _: &Tag) -> Result<DecisionReason, AuthError> {
        Ok(DecisionReason::Open)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}
