//! How values travel: 16-bit codes within public bounds, and the bounds themselves.

use serde_bytes::ByteBuf;

use crate::bounds::Bounds;
use crate::template::TemplateError;

pub(crate) fn encode_codes(values: &[f32], bounds: &Bounds) -> Vec<u16> {
    let code = |(channel, &value): (usize, &f32)| {
        let lower = f64::from(bounds.lower()[channel]);
        let range = f64::from(bounds.upper()[channel]) - lower;
        ((f64::from(value) - lower) / range * f64::from(u16::MAX)).round() as u16
    };
    values.iter().enumerate().map(code).collect()
}

pub(crate) fn decode_codes(codes: &[u16], bounds: &Bounds) -> Vec<f32> {
    let value = |(channel, &code): (usize, &u16)| {
        let (lower, upper) = (bounds.lower()[channel], bounds.upper()[channel]);
        let range = f64::from(upper) - f64::from(lower);
        let value = f64::from(lower) + f64::from(code) / f64::from(u16::MAX) * range;
        (value as f32).clamp(lower, upper)
    };
    codes.iter().enumerate().map(value).collect()
}

pub(crate) fn floats_to_bytes(values: &[f32]) -> ByteBuf {
    ByteBuf::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

pub(crate) fn codes_to_bytes(codes: &[u16]) -> ByteBuf {
    ByteBuf::from(codes.iter().flat_map(|code| code.to_le_bytes()).collect::<Vec<u8>>())
}

fn floats_from_bytes(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
) -> Result<Vec<f32>, TemplateError> {
    check_length(field, bytes, dim, 4)?;
    let (floats, _) = bytes.as_chunks::<4>();
    Ok(floats.iter().map(|float| f32::from_le_bytes(*float)).collect())
}

pub(crate) fn codes_from_bytes(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
) -> Result<Vec<u16>, TemplateError> {
    check_length(field, bytes, dim, 2)?;
    let (codes, _) = bytes.as_chunks::<2>();
    Ok(codes.iter().map(|code| u16::from_le_bytes(*code)).collect())
}

fn check_length(
    field: &'static str,
    bytes: &[u8],
    dim: usize,
    width: usize,
) -> Result<(), TemplateError> {
    let expected = dim.saturating_mul(width);
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(TemplateError::Length { field, bytes: bytes.len(), expected })
    }
}

pub(crate) fn bounds_from_bytes(
    lower: &[u8],
    upper: &[u8],
    dim: usize,
) -> Result<Bounds, TemplateError> {
    let side = |field, bytes| floats_from_bytes(field, bytes, dim);
    Ok(Bounds::new(side("lower", lower)?, side("upper", upper)?)?)
}
