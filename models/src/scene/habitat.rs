//! Habitats: which animals, weather and air make up each ambience, and how loud.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    air::Air,
    bed::Layer,
    birds,
    callers::{Callers, Species},
    chance::Chance,
    frogs,
    hush::Hush,
    insects::{Cicadas, Crickets},
    primates,
    propagation::Vegetation,
    rain::{Rain, Showers},
    wind::Wind,
};

/// Where and when a scene plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Habitat {
    /// Lowland rainforest by day.
    #[default]
    Rainforest,
    /// Rainforest by night.
    Night,
    /// Dry deciduous woodland by day.
    DryForest,
    /// Open savanna by day.
    Savanna,
}

/// A name that is no habitat.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown habitat `{0}`: use rainforest, night, dry-forest or savanna")]
pub struct UnknownHabitat(String);

impl FromStr for Habitat {
    type Err = UnknownHabitat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|habitat| habitat.name() == name)
            .ok_or_else(|| UnknownHabitat(name.chars().take(40).collect()))
    }
}

impl fmt::Display for Habitat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Habitat {
    /// All habitats.
    pub const ALL: [Self; 4] = [Self::Rainforest, Self::Night, Self::DryForest, Self::Savanna];

    /// Its name in configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rainforest => "rainforest",
            Self::Night => "night",
            Self::DryForest => "dry-forest",
            Self::Savanna => "savanna",
        }
    }

    /// Usual air.
    pub fn air(self) -> Air {
        let (temperature_c, humidity_percent, pressure_kpa) = match self {
            Self::Rainforest => (26.0, 88.0, 97.0),
            Self::Night => (22.0, 97.0, 97.0),
            Self::DryForest => (29.0, 50.0, 93.0),
            Self::Savanna => (31.0, 38.0, 90.0),
        };
        Air {
            temperature_c,
            humidity_percent,
            pressure_kpa,
        }
    }

    /// What stands between a shot and the recorder.
    pub fn vegetation(self) -> Vegetation {
        match self {
            Self::Rainforest | Self::Night => Vegetation::RAINFOREST,
            Self::DryForest => Vegetation::DRY_FOREST,
            Self::Savanna => Vegetation::SAVANNA,
        }
    }

    /// Sounds that may be taken for shots or engines, events an hour.
    pub(super) fn distractors_per_hour(self) -> Distractors {
        let (thunder, branches, woodpeckers, chops, engines) = match self {
            Self::Rainforest => (7.0, 16.0, 9.0, 4.0, 4.0),
            Self::Night => (8.0, 14.0, 0.0, 1.0, 2.0),
            Self::DryForest => (2.0, 12.0, 10.0, 6.0, 5.0),
            Self::Savanna => (4.0, 4.0, 5.0, 3.0, 7.0),
        };
        Distractors {
            thunder,
            branches,
            woodpeckers,
            chops,
            engines,
        }
    }

    /// The layers of its ambience.
    pub(super) fn bed(self, seed: u64) -> Vec<Box<dyn Layer>> {
        let mut bed = Builder {
            layers: Vec::new(),
            vegetation: self.vegetation(),
            chance: Chance::for_part(seed, "bed"),
        };
        match self {
            Self::Rainforest => bed.rainforest(),
            Self::Night => bed.night(),
            Self::DryForest => bed.dry_forest(),
            Self::Savanna => bed.savanna(),
        }
        bed.layers
    }
}

/// Rates of the sounds that are no shots, events an hour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Distractors {
    pub(super) thunder: f64,
    pub(super) branches: f64,
    pub(super) woodpeckers: f64,
    pub(super) chops: f64,
    pub(super) engines: f64,
}

struct Builder {
    layers: Vec<Box<dyn Layer>>,
    vegetation: Vegetation,
    chance: Chance,
}

/// Makes a species.
type Family = fn(&mut Chance) -> Species;

impl Builder {
    fn wind(&mut self, spl_db: (f32, f32), exposure: f32) {
        let level = self.chance.between(spl_db.0, spl_db.1);
        let wind = Wind::new(level, exposure, self.chance.split());
        self.layers.push(Box::new(wind));
    }

    fn hush(&mut self, spl_db: (f32, f32)) {
        let level = self.chance.between(spl_db.0, spl_db.1);
        let hush = Hush::new(level, self.chance.split());
        self.layers.push(Box::new(hush));
    }

    fn rain(&mut self, dry_s: f64, wet_s: f64, wet_at_first: f32) {
        let showers = Showers {
            dry_s,
            wet_s,
            begins_wet: self.chance.happens(wet_at_first),
        };
        let rain = Rain::new(showers, self.chance.split());
        self.layers.push(Box::new(rain));
    }

    fn cicadas(&mut self, count: (u32, u32), spl_db: (f32, f32), steady: bool) {
        for _ in 0..self.chance.whole(count.0, count.1) {
            let level = self.chance.between(spl_db.0, spl_db.1);
            let cicadas = Cicadas::new(level, steady, self.chance.split());
            self.layers.push(Box::new(cicadas));
        }
    }

    fn crickets(&mut self, species: (u32, u32), singers: (u32, u32), spl_db: (f32, f32)) {
        for _ in 0..self.chance.whole(species.0, species.1) {
            let level = self.chance.between(spl_db.0, spl_db.1);
            let singers = self.chance.whole(singers.0, singers.1);
            let crickets = Crickets::new(level, singers, self.chance.split());
            self.layers.push(Box::new(crickets));
        }
    }

    /// Each family lives here with its probability.
    fn fauna(&mut self, families: &[(Family, f32)]) {
        for &(family, probability) in families {
            if self.chance.happens(probability) {
                let species = family(&mut self.chance);
                let callers = Callers::new(species, self.vegetation, self.chance.split());
                self.layers.push(Box::new(callers));
            }
        }
    }

    fn rainforest(&mut self) {
        self.hush((36.0, 45.0));
        self.wind((42.0, 54.0), 0.25);
        self.rain(1_500.0, 260.0, 0.12);
        self.cicadas((1, 2), (36.0, 47.0), true);
        self.cicadas((1, 2), (44.0, 56.0), false);
        self.crickets((1, 2), (1, 3), (34.0, 44.0));
        self.fauna(&[
            (birds::whistler, 1.0),
            (birds::whistler, 0.7),
            (birds::triller, 0.8),
            (birds::warbler, 0.8),
            (birds::warbler, 0.5),
            (birds::dove, 0.7),
            (birds::coucal, 0.6),
            (birds::tinkerbird, 0.8),
            (birds::screecher, 0.6),
            (birds::hornbill, 0.6),
            (birds::contact_caller, 0.8),
            (frogs::clicker, 0.25),
            (primates::guenon, 0.5),
            (primates::colobus, 0.3),
            (primates::hooter, 0.4),
        ]);
    }

    fn night(&mut self) {
        self.hush((34.0, 43.0));
        self.wind((38.0, 50.0), 0.2);
        self.rain(1_800.0, 320.0, 0.12);
        self.cicadas((1, 2), (40.0, 50.0), true);
        self.crickets((2, 4), (2, 4), (40.0, 53.0));
        self.fauna(&[
            (frogs::peeper, 0.8),
            (frogs::peeper, 0.5),
            (frogs::croaker, 0.8),
            (frogs::clicker, 0.7),
            (birds::owl, 0.8),
            (birds::owl, 0.4),
            (birds::nightjar, 0.6),
            (primates::colobus, 0.15),
        ]);
    }

    fn dry_forest(&mut self) {
        self.hush((31.0, 41.0));
        self.wind((44.0, 56.0), 0.45);
        self.cicadas((1, 2), (42.0, 54.0), true);
        self.cicadas((0, 2), (44.0, 56.0), false);
        self.crickets((0, 1), (1, 2), (32.0, 42.0));
        self.fauna(&[
            (birds::whistler, 0.8),
            (birds::triller, 0.9),
            (birds::warbler, 0.7),
            (birds::dove, 0.9),
            (birds::dove, 0.6),
            (birds::coucal, 0.5),
            (birds::tinkerbird, 0.6),
            (birds::screecher, 0.7),
            (birds::hornbill, 0.5),
            (birds::contact_caller, 0.9),
        ]);
    }

    fn savanna(&mut self) {
        self.hush((29.0, 39.0));
        self.wind((46.0, 58.0), 0.8);
        self.rain(7_200.0, 200.0, 0.03);
        self.cicadas((0, 1), (36.0, 46.0), true);
        self.crickets((1, 2), (1, 3), (32.0, 43.0));
        self.fauna(&[
            (birds::triller, 0.9),
            (birds::triller, 0.6),
            (birds::whistler, 0.6),
            (birds::warbler, 0.6),
            (birds::dove, 1.0),
            (birds::dove, 0.8),
            (birds::coucal, 0.4),
            (birds::screecher, 0.5),
            (birds::contact_caller, 0.9),
        ]);
    }
}
