//! The body of a response on its way out: counted, and held back or cut off where a rule says so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::S3Gate;
use super::journal::JournalEntry;
use super::pace::{PIECE_BYTES, Pace};
use super::pieces::len;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct EmulatedBody {
    inner: s3s::Body,
    entry: JournalEntry,
    sent_bytes: u64,
    /// Read from inside, and not given out yet.
    rest: Bytes,
    stall: Option<(u64, Waiting)>,
    cut: Option<BodyCut>,
    pace: Option<Pace>,
}

struct BodyCut {
    after_bytes: u64,
    /// Whether the connection was given a turn to write out what is before the cut.
    flushed: bool,
}

impl EmulatedBody {
    /// A body that comes whole.
    pub(crate) fn new(inner: s3s::Body, entry: JournalEntry) -> Self {
        Self { inner, entry, sent_bytes: 0, rest: Bytes::new(), stall: None, cut: None, pace: None }
    }

    /// Stops it after so many bytes until the gate lets it through.
    pub(crate) fn stall(&mut self, after_bytes: u64, gate: S3Gate) {
        self.stall = Some((after_bytes, Box::pin(async move { gate.enter().await })));
    }

    /// Breaks it off after so many bytes.
    pub(crate) fn cut(&mut self, after_bytes: u64) {
        self.cut = Some(BodyCut { after_bytes, flushed: false });
    }

    /// Sends no more than so many bytes a second.
    pub(crate) fn pace(&mut self, bytes_per_second: u64) {
        self.pace = Some(Pace::new(bytes_per_second));
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((after, waiting)) = &mut self.stall
            && self.sent_bytes >= *after
        {
            ready!(waiting.as_mut().poll(context));
            self.stall = None;
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll(self.sent_bytes, context));
        }
        match &mut self.cut {
            Some(cut) if self.sent_bytes >= cut.after_bytes => {
                if std::mem::replace(&mut cut.flushed, true) {
                    return Poll::Ready(Err(io::Error::other("the body was to be cut here")));
                }
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// How many bytes may be given out now.
    fn room(&self) -> u64 {
        let stall = self.stall.as_ref().map(|(after, _)| *after);
        let cut = self.cut.as_ref().map(|cut| cut.after_bytes);
        let end = stall.into_iter().chain(cut).min().unwrap_or(u64::MAX);
        let room = end - self.sent_bytes;
        if self.pace.is_some() { room.min(PIECE_BYTES) } else { room }
    }

    fn give(&mut self) -> Bytes {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let piece = self.rest.split_to(self.rest.len().min(room));
        self.sent_bytes += len(&piece);
        self.entry.note(|recorded| recorded.bytes_out += len(&piece));
        piece
    }
}

impl Body for EmulatedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Err(cut) = ready!(self.wait(context)) {
            return Poll::Ready(Some(Err(cut)));
        }
        while self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(frame) => frame.map_err(io::Error::other)?,
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.give()))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.inner.size_hint().exact() {
            Some(inner) => SizeHint::with_exact(inner + len(&self.rest)),
            None => SizeHint::default(),
        }
    }
}
