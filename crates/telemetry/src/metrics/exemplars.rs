//! Exemplars: the buckets of a histogram name the trace of a request that fell into them.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;

use super::{LATENCY_BOUNDS_S, MetricLabels};
use crate::trace::hex;

pub(super) type TracedHistogram = HistogramWithExemplars<TraceLabel>;
pub(super) type TracedHistograms =
    Family<MetricLabels<1>, TracedHistogram, fn() -> TracedHistogram>;

/// The label of an exemplar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TraceLabel(pub(super) [u8; 16]);

impl EncodeLabelSet for TraceLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("trace_id", hex(&self.0)).encode(encoder.encode_label())
    }
}

pub(super) fn latency() -> TracedHistogram {
    TracedHistogram::new(LATENCY_BOUNDS_S.into_iter())
}
