//! jreg.
