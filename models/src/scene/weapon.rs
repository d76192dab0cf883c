//! Weapons: what poachers fire, in the numbers that decide how it sounds.

use serde::{Deserialize, Serialize};

use super::{air::Air, chance::Chance};

/// Heat of explosion that defines the TNT equivalent, J/kg.
const TNT_J_PER_KG: f64 = 4.184e6;
/// Heat of explosion of nitrocellulose powder, J/kg (Carlucci and Jacobson, Ballistics, 2008).
const SMOKELESS_J_PER_KG: f64 = 3.9e6;
/// Heat of explosion of black powder, J/kg (same source).
const BLACK_POWDER_J_PER_KG: f64 = 2.8e6;

/// A kind of weapon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeaponKind {
    /// Bolt-action rifle of .30 calibre.
    HuntingRifle,
    /// Twelve-bore shotgun.
    Shotgun,
    /// Home-made or old muzzle-loader with black powder.
    MuzzleLoader,
    /// Automatic rifle, 7.62 × 39 mm, single fire or bursts.
    AssaultRifle,
    /// Small-bore rifle, .22.
    SmallRifle,
}

impl WeaponKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::HuntingRifle,
        Self::Shotgun,
        Self::MuzzleLoader,
        Self::AssaultRifle,
        Self::SmallRifle,
    ];

    /// One of the kinds, as often as patrols meet them: mostly shotguns and home-made guns.
    pub fn drawn(chance: &mut Chance) -> Self {
        match chance.unit() {
            x if x < 0.36 => Self::Shotgun,
            x if x < 0.60 => Self::HuntingRifle,
            x if x < 0.80 => Self::AssaultRifle,
            x if x < 0.96 => Self::MuzzleLoader,
            _ => Self::SmallRifle,
        }
    }
}

/// A bullet faster than sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bullet {
    /// Diameter, m.
    pub calibre_m: f64,
    /// Length, m.
    pub length_m: f64,
    /// Speed at the muzzle, m/s.
    pub muzzle_speed_m_s: f64,
    /// Speed lost per metre of flight, 1/s.
    pub slowing_per_s: f64,
}

/// A weapon with its load.
#[derive(Debug, Clone, PartialEq)]
pub struct Weapon {
    /// What it is.
    pub kind: WeaponKind,
    /// Powder charge, kg.
    pub charge_kg: f64,
    /// Heat of explosion of the powder, J/kg.
    pub powder_j_per_kg: f64,
    /// Share of that heat that leaves the muzzle as blast: the rest is bullet, hot barrel and slow
    /// jet. Chosen so that the peak one metre from the muzzle is that of published surveys
    /// (160–172 dB; Flamme et al. 2009, Murphy and Tubbs 2007).
    pub blast_share: f64,
    /// How much longer (and weaker) than an ideal explosion's the pressure pulse is: slow powder
    /// and low muzzle pressure stretch it.
    pub stretch: f64,
    /// Level behind the shooter against ahead, dB (Beck, Nakasone and Marr 2011: 10–20 for rifles).
    pub rear_db: f64,
    /// The bullet, if it is faster than sound; shot pellets are treated as none.
    pub bullet: Option<Bullet>,
}

impl Weapon {
    /// A usual weapon of this kind.
    pub fn new(kind: WeaponKind) -> Self {
        let smokeless = |charge_kg, blast_share, stretch, rear_db, bullet| Self {
            kind,
            charge_kg,
            powder_j_per_kg: SMOKELESS_J_PER_KG,
            blast_share,
            stretch,
            rear_db,
            bullet,
        };
        match kind {
            WeaponKind::HuntingRifle => smokeless(
                3.2e-3,
                0.28,
                1.0,
                -14.0,
                Some(Bullet {
                    calibre_m: 7.82e-3,
                    length_m: 31e-3,
                    muzzle_speed_m_s: 850.0,
                    slowing_per_s: 0.95,
                }),
            ),
            WeaponKind::AssaultRifle => smokeless(
                1.6e-3,
                0.30,
                0.95,
                -12.0,
                Some(Bullet {
                    calibre_m: 7.92e-3,
                    length_m: 26.8e-3,
                    muzzle_speed_m_s: 715.0,
                    slowing_per_s: 1.05,
                }),
            ),
            WeaponKind::Shotgun => smokeless(1.8e-3, 0.22, 1.35, -10.0, None),
            WeaponKind::SmallRifle => smokeless(0.1e-3, 0.12, 1.0, -8.0, None),
            WeaponKind::MuzzleLoader => Self {
                kind,
                charge_kg: 6.5e-3,
                powder_j_per_kg: BLACK_POWDER_J_PER_KG,
                blast_share: 0.16,
                stretch: 1.9,
                rear_db: -8.0,
                bullet: None,
            },
        }
    }

    /// A weapon of a drawn kind whose load varies as hand-loads and worn barrels do.
    pub fn drawn(chance: &mut Chance) -> Self {
        let mut weapon = Self::new(WeaponKind::drawn(chance));
        weapon.charge_kg *= f64::from(chance.between_log(0.8, 1.25));
        weapon.stretch *= f64::from(chance.between_log(0.85, 1.25));
        weapon
    }

    /// The explosion that the muzzle blast is like.
    pub(super) fn blast(&self, air: &Air) -> Blast {
        let tnt_kg = self.charge_kg * self.powder_j_per_kg * self.blast_share / TNT_J_PER_KG;
        let scale = tnt_kg.cbrt();
        // Far limits of the fits of Kinney and Graham (1985) for explosions in free air: peak
        // 0.827 atmospheres and positive phase 4.21 ms at a scaled distance of 1 m/kg^⅓ and beyond.
        Blast {
            peak_pa: 0.827 * air.pressure_pa() * scale / self.stretch,
            phase_s: 4.21e-3 * scale * self.stretch,
            rear_db: self.rear_db,
        }
    }

    /// Times of the rounds of one burst after its first, s: single shots, a second barrel or a
    /// second shot, short automatic bursts.
    pub fn rounds(&self, chance: &mut Chance) -> Vec<f64> {
        let mut times = vec![0.0];
        match self.kind {
            // 600 rounds a minute.
            WeaponKind::AssaultRifle if chance.happens(0.45) => {
                let rounds = chance.whole(2, 6);
                let mut time = 0.0;
                for _ in 1..rounds {
                    time += f64::from(chance.between(0.096, 0.106));
                    times.push(time);
                }
            }
            WeaponKind::AssaultRifle if chance.happens(0.3) => {
                times.push(f64::from(chance.between(0.35, 1.2)));
            }
            WeaponKind::Shotgun if chance.happens(0.25) => {
                times.push(f64::from(chance.between(0.3, 1.6)));
            }
            WeaponKind::SmallRifle | WeaponKind::HuntingRifle if chance.happens(0.12) => {
                times.push(f64::from(chance.between(1.5, 2.6)));
            }
            _ => {}
        }
        times
    }
}

/// A spherical blast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blast {
    /// Peak ahead, one metre from the muzzle, Pa.
    pub(super) peak_pa: f64,
    /// Length of its positive phase there, s.
    pub(super) phase_s: f64,
    /// Level behind against ahead, dB.
    pub(super) rear_db: f64,
}

#[cfg(test)]
mod tests {
    use super::{Weapon, WeaponKind};
    use crate::scene::{air::Air, chance::Chance};

    #[test]
    fn peaks_are_those_of_published_surveys() {
        for (kind, db) in [
            (WeaponKind::HuntingRifle, 167.0..173.0),
            (WeaponKind::AssaultRifle, 166.0..172.0),
            (WeaponKind::Shotgun, 162.0..170.0),
            (WeaponKind::MuzzleLoader, 160.0..170.0),
            (WeaponKind::SmallRifle, 152.0..162.0),
        ] {
            let peak = Weapon::new(kind).blast(&Air::default()).peak_pa;
            let level = 20.0 * (peak / 20e-6).log10();
            assert!(db.contains(&level), "{kind:?}: {level} dB");
        }
    }

    #[test]
    fn rounds_follow_one_another() {
        let mut chance = Chance::new(9);
        for _ in 0..500 {
            let rounds = Weapon::drawn(&mut chance).rounds(&mut chance);
            assert_eq!(rounds[0], 0.0);
            assert!(rounds.windows(2).all(|pair| pair[1] > pair[0] + 0.05));
            assert!(rounds[rounds.len() - 1] < 3.0);
        }
    }
}
