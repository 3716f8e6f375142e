//! [`KeyPages`]: a listing of everything below a prefix, page by page, for work that goes through it
//! all.

use jreg_storage::{ListPage, ListRequest};

use crate::Result;
use crate::core::Core;

/// A listing, page by page.
pub(crate) struct KeyPages {
    core: Core,
    request: Option<ListRequest>,
}

impl Core {
    /// Everything below a prefix, in pages as large as suits the store.
    pub(crate) fn list_pages(&self, prefix: impl Into<String>) -> KeyPages {
        let limit = self.store.capabilities().list_page_keys;
        let request = ListRequest { limit, ..ListRequest::below(prefix) };
        KeyPages { core: self.clone(), request: Some(request) }
    }
}

impl KeyPages {
    /// Continues after a key.
    pub(crate) fn after(mut self, key: String) -> Self {
        if let Some(request) = &mut self.request {
            request.start_after = Some(key);
        }
        self
    }

    /// The next page; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<ListPage>> {
        let Some(request) = &mut self.request else { return Ok(None) };
        let page = self.core.store.list(request).await?;
        match &page.next {
            Some(next) => request.start_after = Some(next.clone()),
            None => self.request = None,
        }
        Ok(Some(page))
    }
}
