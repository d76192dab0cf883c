//! Ground: the reflection from the forest floor.

use realfft::num_complex::Complex;

use super::air::Air;

/// Density of air near 20 °C, kg/m³.
const AIR_DENSITY_KG_M3: f64 = 1.2;

/// Specific impedance of a porous floor against air, time convention exp(−iωt): the one-parameter
/// model of Delany and Bazley (1970) in the form of Embleton, Piercy and Daigle (1983).
/// `flow_resistivity` in Pa·s/m²: forest floor 20–80 thousand, grass 150–300 thousand (same paper).
fn impedance(hz: f64, flow_resistivity: f64) -> Complex<f64> {
    let x = AIR_DENSITY_KG_M3 * hz / flow_resistivity;
    Complex::new(1.0 + 0.0571 * x.powf(-0.754), 0.0870 * x.powf(-0.732))
}

/// Faddeeva's function exp(−z²)·erfc(−iz) for Im z ≥ 0, by the rational approximations of
/// Humlíček (1982), relative error below 10⁻⁴.
fn faddeeva(z: Complex<f64>) -> Complex<f64> {
    let t = Complex::new(z.im, -z.re);
    let s = z.re.abs() + z.im;
    let horner = |x: Complex<f64>, coefficients: &[f64]| {
        coefficients
            .iter()
            .fold(Complex::new(0.0, 0.0), |sum, &c| sum * x + c)
    };
    if s >= 15.0 {
        t * 0.564_189_6 / (t * t + 0.5)
    } else if s >= 5.5 {
        let u = t * t;
        t * (u * 0.564_189_6 + 1.410_474) / (u * (u + 3.0) + 0.75)
    } else if z.im >= 0.195 * z.re.abs() - 0.176 {
        horner(t, &[0.564_223_6, 3.778_987, 11.964_82, 20.209_33, 16.4955])
            / horner(t, &[1.0, 6.699_398, 21.692_74, 39.271_21, 38.823_63, 16.4955])
    } else {
        let u = -(t * t);
        let top = [0.564_19, 1.320_522, 35.766_83, 219.0313, 1540.787, 3321.9905, 36_183.31];
        let bottom = [
            1.0, 1.841_439, 61.570_37, 364.2191, 2186.181, 9022.228, 24_322.84, 32_066.6,
        ];
        (-u).exp() - t * horner(u, &top) / horner(u, &bottom)
    }
}

/// Where source and recorder stand over the floor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    pub(super) distance_m: f64,
    pub(super) source_height_m: f64,
    pub(super) receiver_height_m: f64,
    pub(super) flow_resistivity: f64,
}

impl Floor {
    /// How much longer the reflected way is than the straight one, m.
    pub(super) fn detour_m(&self) -> f64 {
        let across = |height: f64| self.distance_m.hypot(height);
        across(self.source_height_m + self.receiver_height_m)
            - across(self.source_height_m - self.receiver_height_m)
    }

    /// Spherical-wave reflection coefficient, convention exp(−iωt): plane-wave coefficient plus
    /// ground wave (Chien and Soroka 1980).
    pub(super) fn reflection(&self, hz: f64, air: &Air) -> Complex<f64> {
        let height = self.source_height_m + self.receiver_height_m;
        let way = self.distance_m.hypot(height);
        let grazing = height / way;
        let admittance = impedance(hz.max(10.0), self.flow_resistivity).inv();
        let plane = (grazing - admittance) / (grazing + admittance);
        let wave_number = std::f64::consts::TAU * hz.max(10.0) / air.speed_of_sound();
        let w = Complex::new(0.5, 0.5) * (wave_number * way).sqrt() * (admittance + grazing);
        let ground_wave = if w.im >= 0.0 {
            Complex::new(0.0, std::f64::consts::PI.sqrt()) * w * faddeeva(w) + 1.0
        } else {
            Complex::new(0.0, 0.0)
        };
        plane + (Complex::new(1.0, 0.0) - plane) * ground_wave
    }
}

#[cfg(test)]
mod tests {
    use super::{Complex, Floor, faddeeva};
    use crate::scene::air::Air;

    #[test]
    fn faddeeva_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.9; one point in each region of the approximation.
        for (z, w) in [
            ((0.0, 0.0), (1.0, 0.0)),
            ((0.0, 1.0), (0.427_584, 0.0)),
            ((1.0, 0.0), (0.367_879, 0.607_158)),
            ((2.0, 1.0), (0.140_240, 0.222_213)),
            ((3.9, 0.1), (0.004_153, 0.149_871)),
            ((10.0, 10.0), (0.028_279, 0.028_138)),
        ] {
            let ours = faddeeva(Complex::new(z.0, z.1));
            let error = (ours - Complex::new(w.0, w.1)).norm();
            assert!(error < 5e-4, "{z:?}: {ours} against {w:?}");
        }
    }

    #[test]
    fn a_hard_floor_doubles_and_a_soft_one_cancels_at_grazing() {
        let floor = |flow_resistivity| Floor {
            distance_m: 200.0,
            source_height_m: 1.4,
            receiver_height_m: 2.0,
            flow_resistivity,
        };
        let rock = floor(2e8).reflection(500.0, &Air::default());
        let moss = floor(2e4).reflection(500.0, &Air::default());
        assert!((rock - Complex::new(1.0, 0.0)).norm() < 0.2, "rock {rock}");
        assert!(moss.re < -0.5, "moss {moss}");
        let expected = 2.0 * 1.4 * 2.0 / 200.0;
        assert!((floor(2e4).detour_m() - expected).abs() < 1e-3);
    }
}
