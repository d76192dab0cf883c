//! Air: speed of sound and absorption.

use serde::{Deserialize, Serialize};

/// Sound pressure of 0 dB SPL, Pa.
pub(super) const REFERENCE_PRESSURE_PA: f32 = 20e-6;
/// Standard atmosphere at sea level, kPa (ISO 9613-1).
const REFERENCE_ATMOSPHERE_KPA: f64 = 101.325;
/// 20 °C, K (ISO 9613-1).
const REFERENCE_TEMPERATURE_K: f64 = 293.15;
/// Triple point of water, K (ISO 9613-1).
const TRIPLE_POINT_K: f64 = 273.16;

/// The state of the air between a sound and the recorder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Air {
    /// Temperature, °C.
    pub temperature_c: f32,
    /// Relative humidity, %.
    pub humidity_percent: f32,
    /// Static pressure, kPa.
    pub pressure_kpa: f32,
}

impl Default for Air {
    fn default() -> Self {
        Self {
            temperature_c: 25.0,
            humidity_percent: 90.0,
            pressure_kpa: 98.0,
        }
    }
}

impl Air {
    /// Speed of sound, m/s: 343.2 m/s at 20 °C, by the square root of the temperature
    /// (ISO 9613-1, annex A).
    pub fn speed_of_sound(&self) -> f64 {
        343.2 * (self.kelvin() / REFERENCE_TEMPERATURE_K).sqrt()
    }

    /// Static pressure, Pa.
    pub(super) fn pressure_pa(&self) -> f64 {
        f64::from(self.pressure_kpa) * 1000.0
    }

    /// Absorption of a pure tone, dB/m (ISO 9613-1:1993, equations 3 to 5 and B.2, B.3).
    pub fn absorption_db_per_m(&self, hz: f64) -> f64 {
        let t = self.kelvin() / REFERENCE_TEMPERATURE_K;
        let p = f64::from(self.pressure_kpa) / REFERENCE_ATMOSPHERE_KPA;
        let saturation =
            10_f64.powf(-6.8346 * (TRIPLE_POINT_K / self.kelvin()).powf(1.261) + 4.6151);
        let h = f64::from(self.humidity_percent) * saturation / p;
        let oxygen = p * (24.0 + 4.04e4 * h * (0.02 + h) / (0.391 + h));
        let nitrogen = p
            * t.powf(-0.5)
            * (9.0 + 280.0 * h * (-4.170 * (t.powf(-1.0 / 3.0) - 1.0)).exp());
        let classical = 1.84e-11 / p * t.sqrt();
        let relaxation = t.powf(-2.5)
            * (0.01275 * (-2239.1 / self.kelvin()).exp() / (oxygen + hz * hz / oxygen)
                + 0.1068 * (-3352.0 / self.kelvin()).exp() / (nitrogen + hz * hz / nitrogen));
        8.686 * hz * hz * (classical + relaxation)
    }

    fn kelvin(&self) -> f64 {
        f64::from(self.temperature_c) + 273.15
    }
}

#[cfg(test)]
mod tests {
    use super::Air;

    #[test]
    fn absorption_is_that_of_the_standard() {
        // ISO 9613-2:1996, table 2, dB/km.
        let cases = [
            (10.0, 70.0, [0.4, 1.0, 1.9, 3.7, 9.7, 32.8, 117.0]),
            (20.0, 70.0, [0.3, 1.1, 2.8, 5.0, 9.0, 22.9, 76.6]),
            (15.0, 20.0, [0.6, 1.2, 2.7, 8.2, 28.2, 88.8, 202.0]),
        ];
        for (temperature_c, humidity_percent, expected) in cases {
            let air = Air {
                temperature_c,
                humidity_percent,
                pressure_kpa: 101.325,
            };
            for (hz, db_per_km) in [125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0]
                .into_iter()
                .zip(expected)
            {
                let ours = air.absorption_db_per_m(hz) * 1000.0;
                assert!(
                    (ours - db_per_km).abs() < 0.06 + 0.03 * db_per_km,
                    "{temperature_c} °C, {humidity_percent} %, {hz} Hz: {ours} against {db_per_km}"
                );
            }
        }
        assert!((Air { temperature_c: 20.0, ..Air::default() }.speed_of_sound() - 343.2).abs() < 0.1);
    }
}
