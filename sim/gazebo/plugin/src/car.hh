// The one car model in the world, and the saved states of the cars that take turns with it.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <gazebo/physics/physics.hh>

namespace car_simulator {

struct Command {
  double steering_rad = 0.0;
  double speed_mps = 0.0;
};

struct LinkState {
  ignition::math::Pose3d pose;
  ignition::math::Vector3d linear;
  ignition::math::Vector3d angular;
};

// All that decides how a car goes on: nothing else may differ between two runs of the same step.
struct SavedCar {
  std::vector<LinkState> links;
  double friction_scale = 1.0;
  uint32_t seed = 0;
  uint32_t steps = 0;
};

// What a camera and a caller are told of a car.
struct Motion {
  ignition::math::Pose3d origin;
  double forward_mps = 0.0;
  double leftward_mps = 0.0;
  double yaw_rate_radps = 0.0;
  double steering_rad = 0.0;
  double rim_mps = 0.0;
  // Order: left rear, right rear, left front, right front; then left and right hinge.
  std::array<double, 6> joint_positions{};
  std::array<double, 6> joint_velocities{};
};

// How the car is built and driven, as far as the world's description of its links does not say.
struct CarSettings {
  double wheel_torque_nm = 0.0;
  double steering_gain = 0.0;  // rad/s of the steering a rad that is lacking
  double steering_rate_radps = 0.0;
};

class Car {
 public:
  static const std::array<const char *, 6> kJointNames;

  // Throws std::runtime_error if the model lacks a joint or link.
  Car(gazebo::physics::WorldPtr world, gazebo::physics::ModelPtr model,
      const CarSettings &settings);

  // Returns a car at rest with its origin on (x, y, 0).
  SavedCar At(double x, double y, double yaw) const;

  // Makes the model this car, exactly.
  void Restore(const SavedCar &state);

  // Copies the model into a car's state.
  void Save(SavedCar &state) const;

  void SetCommand(const Command &command);

  // Turns the steering on; to be called before every iteration of the physics.
  void Steer();

  Motion Measure() const;

  const gazebo::physics::Link_V &Links() const { return links_; }
  gazebo::physics::ModelPtr Model() const { return model_; }

 private:
  double SteeringAngle(const gazebo::physics::JointPtr &hinge) const;
  void SetFriction(double scale);

  gazebo::physics::WorldPtr world_;
  gazebo::physics::ModelPtr model_;
  gazebo::physics::Link_V links_;
  gazebo::physics::LinkPtr chassis_;
  std::vector<ignition::math::Pose3d> initial_poses_;  // from the model's origin
  std::array<gazebo::physics::JointPtr, 4> wheels_;
  std::array<gazebo::physics::JointPtr, 2> hinges_;
  double wheel_radius_m_ = 0.0;
  CarSettings settings_;
  double steering_target_rad_ = 0.0;
  // Friction of every wheel as the world describes it: (along the axle, along the rim).
  std::vector<std::pair<gazebo::physics::FrictionPyramidPtr, std::pair<double, double>>> friction_;
  double friction_scale_ = 1.0;
};

}  // namespace car_simulator
