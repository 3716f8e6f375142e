//! [`forward_store!`](crate::forward_store): the methods of [`Store`](crate::Store) that a decorator
//! passes on to the store below it.
//!
//! A decorator lists each method that it forwards, so that `clippy::missing_trait_methods` still
//! says which ones it has forgotten when the trait grows.

/// Implements the listed methods of [`Store`](crate::Store) by those of the store in a field.
///
/// `forward_store! { inner: get, head }` passes calls on as they are.
/// `forward_store! { inner through timed: get, head }` passes each call's name and future to a method
/// `async fn timed<T>(&self, &'static str, impl Future<Output = Result<T>>) -> Result<T>`.
#[macro_export]
macro_rules! forward_store {
    (@one $inner:ident [$($through:ident)?] $method:ident ($by_ref:ident: &$Ref:ty $(, $arg:ident: $Arg:ty)*) -> $Output:ty) => {
        fn $method<'life0, 'life1, 'async_trait>(
            &'life0 self,
            $by_ref: &'life1 $Ref,
            $($arg: $Arg,)*
        ) -> $crate::StoreFuture<'async_trait, $Output>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            $crate::forward_store!(@call self $inner [$($through)?] $method ($by_ref $(, $arg)*))
        }
    };
    (@call $this:ident $inner:ident [] $method:ident ($($arg:ident),*)) => {
        $this.$inner.$method($($arg),*)
    };
    (@call $this:ident $inner:ident [$through:ident] $method:ident ($($arg:ident),*)) => {
        Box::pin($this.$through(stringify!($method), $this.$inner.$method($($arg),*)))
    };

    (@method $inner:ident [] capabilities) => {
        fn capabilities(&self) -> $crate::StoreCapabilities {
            self.$inner.capabilities()
        }
    };
    (@method $inner:ident [] health) => {
        fn health(&self) -> $crate::StoreHealth {
            self.$inner.health()
        }
    };
    (@method $inner:ident [] clock) => {
        fn clock(&self) -> Option<std::sync::Arc<dyn $crate::Clock>> {
            self.$inner.clock()
        }
    };
    (@method $inner:ident $through:tt purge) => {
        $crate::forward_store! { @one $inner $through purge(request: &$crate::ListRequest, age_min: std::time::Duration) -> $crate::Purged }
    };
    (@method $inner:ident $through:tt get) => {
        $crate::forward_store! { @one $inner $through get(key: &$crate::Key) -> $crate::Record }
    };
    (@method $inner:ident $through:tt head) => {
        $crate::forward_store! { @one $inner $through head(key: &$crate::Key) -> $crate::Stat }
    };
    (@method $inner:ident $through:tt read) => {
        $crate::forward_store! { @one $inner $through read(key: &$crate::Key, range: $crate::ByteRange) -> $crate::ByteStream }
    };
    (@method $inner:ident $through:tt put) => {
        $crate::forward_store! { @one $inner $through put(key: &$crate::Key, bytes: bytes::Bytes, mode: $crate::PutMode) -> $crate::Written }
    };
    (@method $inner:ident $through:tt put_after) => {
        fn put_after<'life0, 'async_trait>(
            &'life0 self,
            before: Vec<$crate::StoreChange>,
            then: $crate::Put,
        ) -> $crate::StoreFuture<'async_trait, $crate::SequenceOutcome>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            $crate::forward_store!(@call self $inner $through put_after (before, then))
        }
    };
    (@method $inner:ident $through:tt delete) => {
        fn delete<'life0, 'life1, 'life2, 'async_trait>(
            &'life0 self,
            key: &'life1 $crate::Key,
            version: Option<&'life2 $crate::ETag>,
        ) -> $crate::StoreFuture<'async_trait, ()>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            'life2: 'async_trait,
            Self: 'async_trait,
        {
            $crate::forward_store!(@call self $inner $through delete (key, version))
        }
    };
    (@method $inner:ident $through:tt delete_many) => {
        $crate::forward_store! { @one $inner $through delete_many(keys: &[$crate::Key]) -> () }
    };
    (@method $inner:ident $through:tt list) => {
        $crate::forward_store! { @one $inner $through list(request: &$crate::ListRequest) -> $crate::ListPage }
    };
    (@method $inner:ident $through:tt create_multipart) => {
        $crate::forward_store! { @one $inner $through create_multipart(key: &$crate::Key, writer: u64, part_bytes: u64) -> $crate::Multipart }
    };
    (@method $inner:ident $through:tt resume_multipart) => {
        $crate::forward_store! { @one $inner $through resume_multipart(upload: &$crate::Multipart, writer: u64) -> $crate::Multipart }
    };
    (@method $inner:ident $through:tt put_part) => {
        $crate::forward_store! { @one $inner $through put_part(upload: &$crate::Multipart, offset: u64, bytes: bytes::Bytes) -> $crate::Part }
    };
    (@method $inner:ident $through:tt put_last_part) => {
        $crate::forward_store! { @one $inner $through put_last_part(upload: &$crate::Multipart, offset: u64, bytes: bytes::Bytes) -> $crate::Part }
    };
    (@method $inner:ident $through:tt sync_parts) => {
        $crate::forward_store! { @one $inner $through sync_parts(upload: &$crate::Multipart) -> () }
    };
    (@method $inner:ident $through:tt complete_multipart) => {
        $crate::forward_store! { @one $inner $through complete_multipart(upload: &$crate::Multipart) -> () }
    };
    (@method $inner:ident $through:tt abort_multipart) => {
        $crate::forward_store! { @one $inner $through abort_multipart(upload: &$crate::Multipart) -> () }
    };
    (@method $inner:ident $through:tt copy_in) => {
        fn copy_in<'life0, 'life1, 'life2, 'async_trait>(
            &'life0 self,
            key: &'life1 $crate::Key,
            source: &'life2 $crate::CopySource,
        ) -> $crate::StoreFuture<'async_trait, Option<$crate::CopiedObject>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            'life2: 'async_trait,
            Self: 'async_trait,
        {
            $crate::forward_store!(@call self $inner $through copy_in (key, source))
        }
    };
    (@method $inner:ident $through:tt staged_uploads) => {
        $crate::forward_store! { @one $inner $through staged_uploads(prefix: &str) -> Vec<$crate::StagedUpload> }
    };
    (@method $inner:ident $through:tt staged_file) => {
        $crate::forward_store! { @one $inner $through staged_file(upload: &$crate::Multipart) -> Option<std::sync::Arc<$crate::OpenFile>> }
    };
    (@method $inner:ident $through:tt file) => {
        $crate::forward_store! { @one $inner $through file(key: &$crate::Key) -> Option<std::sync::Arc<$crate::OpenFile>> }
    };
    (@method $inner:ident $through:tt presign) => {
        fn presign<'life0, 'life1, 'life2, 'async_trait>(
            &'life0 self,
            key: &'life1 $crate::Key,
            presign: &'life2 $crate::Presign,
        ) -> $crate::StoreFuture<'async_trait, Option<String>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            'life2: 'async_trait,
            Self: 'async_trait,
        {
            $crate::forward_store!(@call self $inner $through presign (key, presign))
        }
    };

    ($inner:ident: $($method:ident),+ $(,)?) => {
        $($crate::forward_store! { @method $inner [] $method })+
    };
    ($inner:ident through $through:ident: $($method:ident),+ $(,)?) => {
        $($crate::forward_store! { @method $inner [$through] $method })+
    };
}
