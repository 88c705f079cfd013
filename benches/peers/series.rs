//! Medians of samples, with a confidence interval that assumes nothing about the distribution of the noise.

/// A median and its confidence interval of at least 95 %.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Median {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The median of `samples`, with the order statistics that enclose it (binomial, two-sided 95 %; with fewer than six samples the
/// smallest and the greatest).
pub fn median(samples: &[f64]) -> Median {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    if count == 0 {
        return Median { value: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let value = if count % 2 == 1 { sorted[count / 2] } else { (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0 };
    let below = outside(count);
    Median { value, low: sorted[below], high: sorted[count - 1 - below] }
}

/// The number of samples to leave out at each end: the greatest for which the median lies there with a probability of at most 5 %.
fn outside(count: usize) -> usize {
    let mut chance = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    let mut below = 0;
    while below < count / 2 {
        sum += chance;
        if 2.0 * sum > 0.05 {
            break;
        }
        below += 1;
        chance *= (count - below + 1) as f64 / below as f64;
    }
    below.saturating_sub(1)
}

/// Compares each sample of `ours` with the sample of `theirs` taken next to it.
pub fn paired(ours: &[f64], theirs: &[f64], compare: impl Fn(f64, f64) -> f64) -> Median {
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| compare(*ours, *theirs)).collect::<Vec<_>>())
}

/// `ours / theirs`.
pub fn ratio(ours: f64, theirs: f64) -> f64 {
    ours / theirs
}

/// `ours - theirs`.
pub fn difference(ours: f64, theirs: f64) -> f64 {
    ours - theirs
}
