// Public exports of anekit/chips: the compile targets as data, and detection of the chip at hand.

export {
  atLeast,
  type Chip,
  type ChipFamily,
  type ChipFeature,
  type ChipFeatures,
  type ChipLimits,
  type ChipName,
  chipFamilies,
  chipNames,
  chips,
  familyLimits,
  featureFloors,
  findChip,
  floorChip,
  type PortDType,
  representativeChips,
  streamingFloors,
  type WeightEncoding,
} from "./chips.ts";
export { chipFromBrand } from "./detect.ts";
