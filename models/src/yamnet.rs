//! YAMNet: reading the published files, our own layout of the network, running it.

pub mod accept;
mod archive;
mod backbone;
mod class_names;
pub mod command;
pub mod download;
mod export;
mod flatbuffer;
pub mod golden;
mod import;
mod network;
mod place;
mod tflite;

pub use archive::unpack;
pub use backbone::{BATCH, Backbone, BackboneError, BackboneRunError, Exit, PATCH_LEN};
pub use class_names::class_name;
pub use export::to_onnx;
pub use flatbuffer::Malformed;
pub use import::{ImportError, MAX_FILE_BYTES, read_tflite};
pub use network::{CLASSES, Conv, ConvShape, EMBEDDING_LEN, Network, conv_shapes};
pub use place::{ENV, candidates, default_path, find, is_named, system_path};

/// Name of the network in manifests.
pub const ARCHITECTURE: &str = "yamnet-v1";
