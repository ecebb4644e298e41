//! stir
