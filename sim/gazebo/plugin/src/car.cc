#include "car.hh"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace car_simulator {

namespace physics = gazebo::physics;
using ignition::math::Pose3d;
using ignition::math::Vector3d;

const std::array<const char *, 6> Car::kJointNames = {
    "left_rear_wheel_joint",  "right_rear_wheel_joint",    "left_front_wheel_joint",
    "right_front_wheel_joint", "left_steering_hinge_joint", "right_steering_hinge_joint"};

namespace {

physics::JointPtr FindJoint(const physics::ModelPtr &model, const char *name) {
  auto joint = model->GetJoint(name);
  if (!joint) throw std::runtime_error("the car has no joint " + std::string(name));
  return joint;
}

// The random numbers of a step depend on the car's seed and the step, not on what other cars did.
uint32_t StepSeed(uint32_t seed, uint32_t step) {
  uint32_t bits = seed * 2654435761u + step * 2246822519u;
  bits ^= bits >> 15;
  bits *= 2246822519u;
  return bits ^ (bits >> 13);
}

}  // namespace

Car::Car(physics::WorldPtr world, physics::ModelPtr model, const CarSettings &settings)
    : world_(std::move(world)),
      model_(std::move(model)),
      links_(model_->GetLinks()),
      chassis_(model_->GetLink("chassis")),
      settings_(settings) {
  if (!chassis_) throw std::runtime_error("the car has no link chassis");
  for (const auto &link : links_) initial_poses_.push_back(link->InitialRelativePose());
  for (size_t i = 0; i < wheels_.size(); ++i) wheels_[i] = FindJoint(model_, kJointNames[i]);
  for (size_t i = 0; i < hinges_.size(); ++i) {
    hinges_[i] = FindJoint(model_, kJointNames[wheels_.size() + i]);
  }
  for (const auto &wheel : wheels_) {
    for (const auto &collision : wheel->GetChild()->GetCollisions()) {
      auto pyramid = collision->GetSurface()->FrictionPyramid();
      friction_.push_back({pyramid, {pyramid->MuPrimary(), pyramid->MuSecondary()}});
      auto shape = boost::dynamic_pointer_cast<physics::CylinderShape>(collision->GetShape());
      if (!shape) throw std::runtime_error("a wheel of the car is no cylinder");
      wheel_radius_m_ = shape->GetRadius();
    }
  }
}

SavedCar Car::At(double x, double y, double yaw) const {
  const Pose3d origin(x, y, 0.0, 0.0, 0.0, yaw);
  SavedCar state;
  for (const auto &pose : initial_poses_) {
    state.links.push_back({pose + origin, Vector3d::Zero, Vector3d::Zero});
  }
  return state;
}

void Car::Restore(const SavedCar &state) {
  for (size_t i = 0; i < links_.size(); ++i) {
    // Link by link: moving the model as a whole keeps what its links have drifted apart.
    links_[i]->ResetPhysicsStates();
    links_[i]->SetWorldPose(state.links[i].pose);
    links_[i]->SetLinearVel(state.links[i].linear);
    links_[i]->SetAngularVel(state.links[i].angular);
  }
  SetFriction(state.friction_scale);
  world_->Physics()->SetSeed(StepSeed(state.seed, state.steps));
}

void Car::Save(SavedCar &state) const {
  for (size_t i = 0; i < links_.size(); ++i) {
    state.links[i] = {links_[i]->WorldPose(), links_[i]->WorldCoGLinearVel(),
                      links_[i]->WorldAngularVel()};
  }
}

void Car::SetCommand(const Command &command) {
  steering_target_rad_ = command.steering_rad;
  for (const auto &hinge : hinges_) {
    hinge->SetParam("fmax", 0, 10.0);  // N m, as in the vehicle's description
  }
  for (const auto &wheel : wheels_) {
    wheel->SetParam("fmax", 0, settings_.wheel_torque_nm);
    wheel->SetParam("vel", 0, command.speed_mps / wheel_radius_m_);
  }
}

// Not hinge->Position(): that adds up small turns, so its rounding tells of steps long past.
double Car::SteeringAngle(const physics::JointPtr &hinge) const {
  const auto turn = chassis_->WorldPose().Rot().Inverse() * hinge->GetChild()->WorldPose().Rot();
  return turn.Yaw();
}

void Car::Steer() {
  // Both wheels by the same angle, as the service commands them.
  for (const auto &hinge : hinges_) {
    const double error_rad = steering_target_rad_ - SteeringAngle(hinge);
    const double limit = settings_.steering_rate_radps;
    const double rate = std::clamp(settings_.steering_gain * error_rad, -limit, limit);
    hinge->SetParam("vel", 0, rate);
  }
}

Motion Car::Measure() const {
  Motion motion;
  motion.origin = chassis_->InitialRelativePose().Inverse() + chassis_->WorldPose();
  const auto velocity = chassis_->WorldPose().Rot().RotateVectorReverse(chassis_->WorldLinearVel());
  motion.forward_mps = velocity.X();
  motion.leftward_mps = velocity.Y();
  motion.yaw_rate_radps = chassis_->WorldAngularVel().Z();
  for (size_t i = 0; i < kJointNames.size(); ++i) {
    const auto &joint = i < wheels_.size() ? wheels_[i] : hinges_[i - wheels_.size()];
    motion.joint_velocities[i] = joint->GetVelocity(0);
    if (i < wheels_.size()) {
      motion.joint_positions[i] = joint->Position(0);
      motion.rim_mps += motion.joint_velocities[i] * wheel_radius_m_ / wheels_.size();
    } else {
      motion.joint_positions[i] = SteeringAngle(joint);
      motion.steering_rad += motion.joint_positions[i] / hinges_.size();
    }
  }
  return motion;
}

void Car::SetFriction(double scale) {
  if (scale == friction_scale_) return;
  for (auto &[pyramid, mu] : friction_) {
    pyramid->SetMuPrimary(mu.first * scale);
    pyramid->SetMuSecondary(mu.second * scale);
  }
  friction_scale_ = scale;
}

}  // namespace car_simulator
